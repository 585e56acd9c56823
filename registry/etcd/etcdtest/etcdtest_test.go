package etcdtest_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, etcdtest.Leaks()...) }

func put(t *testing.T, c *clientv3.Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Put(ctx, "a", "1")
	return err
}

// eventually puts until it succeeds: a single put may be on its way to a leader that dies.
func eventually(t *testing.T, what string, c *clientv3.Client) {
	t.Helper()
	for start := time.Now(); ; {
		err := put(t, c)
		if err == nil {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// TestCluster: the tools do what they say.
func TestCluster(t *testing.T) {
	c := etcdtest.Start(t, 3, etcdtest.Options{Heartbeat: 50 * time.Millisecond})
	client := c.Client()
	defer client.Close()
	p := c.Proxy()
	far, err := clientv3.New(clientv3.Config{Endpoints: p.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	eventually(t, "directly", client)
	eventually(t, "by the proxies", far)
	for name, harm := range map[string]func(...int){"hole": p.Hole, "deaf": p.Deaf, "refuse": p.Refuse} {
		harm()
		if err := put(t, far); err == nil {
			t.Errorf("%s: a put went through", name)
		}
		p.Heal()
		eventually(t, "after "+name, far)
	}
	p.Slow(100*time.Millisecond, 0)
	if start := time.Now(); put(t, far) != nil || time.Since(start) < 100*time.Millisecond {
		t.Error("a slow answer is not slow")
	}
	leader := c.Leader()
	c.Kill9(leader)
	eventually(t, "with one of three dead", client)
	other := (leader + 1) % c.Len()
	c.Stop(other)
	if err := put(t, client); err == nil {
		t.Error("a put went through without a quorum")
	}
	c.Cont(other)
	c.Restart(leader)
	eventually(t, "after all", client)
	c.Terminate(leader)
	c.Restart(leader)
}
