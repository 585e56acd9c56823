package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// script answers lists and watches of pods, one line after the other; the last watch stays open.
type script struct {
	mu      sync.Mutex
	lists   []*reply // guarded by mu
	watches []string // bodies; guarded by mu
	asked   []string // queries; guarded by mu
	news    chan struct{}
}

func (c *script) act() func(*http.Request) *reply {
	return func(r *http.Request) *reply {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/pods") {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		q := r.URL.Query()
		c.asked = append(c.asked, fmt.Sprintf("watch=%s version=%s continue=%s", q.Get("watch"), q.Get("resourceVersion"), q.Get("continue")))
		select {
		case c.news <- struct{}{}:
		default:
		}
		if q.Get("watch") == "" {
			next := c.lists[0]
			c.lists = c.lists[1:]
			return next
		}
		if len(c.watches) == 0 {
			return &reply{open: true}
		}
		next := c.watches[0]
		c.watches = c.watches[1:]
		if next == "410" {
			return &reply{code: 410, reason: metav1.StatusReasonExpired}
		}
		return &reply{code: 200, body: next}
	}
}

func (c *script) queries() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func podOf(d *driver, n int, version string) *corev1.Pod {
	task := freshTask(n)
	p := d.pod(task, "anchor", atThree())
	p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	p.UID, p.ResourceVersion = types.UID(fmt.Sprintf("uid-%d", n)), version
	return p
}

func listed(version, next string, pods ...*corev1.Pod) *reply {
	l := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version, Continue: next}}
	for _, p := range pods {
		l.Items = append(l.Items, *p)
	}
	return &reply{code: 200, body: text(l)}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func event(typ string, obj any) string {
	return fmt.Sprintf("{\"type\":%q,\"object\":%s}\n", typ, text(obj))
}

func bookmark(version string) string {
	return event("BOOKMARK", &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}})
}

// played watches a scripted cluster until Watch ends, or until enough requests were made.
func played(t *testing.T, enough int, build func(d *driver, c *script)) (got []string, synced bool, asked []string, err error) {
	t.Helper()
	s := newStage(t)
	d := s.open(t, "a", func(c *Config) { c.Timeout = time.Minute })
	c := &script{news: make(chan struct{}, 1)}
	build(d, c)
	s.fail(c.act(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	var mu sync.Mutex
	go func() {
		done <- d.followPods(func(p *corev1.Pod, there bool) {
			d.tell(p, there, func(o sandbox.Observation) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprintf("%s phase %d", o.UID, o.Phase))
			})
		}).run(ctx, func() { synced = true })
	}()
	for {
		select {
		case err = <-done:
			return got, synced, c.queries(), err
		case <-c.news:
			if enough > 0 && len(c.queries()) >= enough {
				cancel()
				<-done
				return got, synced, c.queries(), nil
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("waited in vain: %v", c.queries())
		}
	}
}

func TestWatchPagesThenGoesOn(t *testing.T) {
	got, synced, asked, err := played(t, 4, func(d *driver, c *script) {
		one, two, three := podOf(d, 1, "5"), podOf(d, 2, "6"), podOf(d, 3, "11")
		foreign := podOf(d, 4, "7")
		foreign.Labels[LabelTenantUID] = "other"
		c.lists = []*reply{listed("10", "more", one, foreign), listed("10", "", two)}
		c.watches = []string{event("ADDED", three) + event("DELETED", one) + bookmark("50")}
	})
	if err != nil || !synced {
		t.Fatalf("%v, synced %v", err, synced)
	}
	if want := []string{"uid-1 phase 1", "uid-2 phase 1", "uid-3 phase 1", "uid-1 phase 0"}; !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
	want := []string{"watch= version= continue=", "watch= version= continue=more", "watch=true version=10 continue=", "watch=true version=50 continue="}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q: a watch that ended goes on where it was, without a list", asked, want)
	}
}

func TestWatchBreaks(t *testing.T) {
	gone := status(410, metav1.StatusReasonExpired, "too old resource version")
	for name, c := range map[string]struct {
		build  func(d *driver, c *script)
		synced bool
		is     error
	}{
		"a list that fails": {func(_ *driver, c *script) {
			c.lists = []*reply{{code: 503, reason: metav1.StatusReasonServiceUnavailable}}
		}, false, sandbox.ErrUnreachable},
		"a list that breaks off in the middle": {func(d *driver, c *script) {
			c.lists = []*reply{listed("10", "more", podOf(d, 1, "5")), {code: 410, reason: metav1.StatusReasonExpired}}
		}, false, errExpired},
		"half a list": {func(d *driver, c *script) {
			l := listed("10", "", podOf(d, 1, "5"))
			l.body = l.body[:len(l.body)/2]
			c.lists = []*reply{l}
		}, false, sandbox.ErrUnreachable},
		"410 as an answer": {func(_ *driver, c *script) {
			c.lists, c.watches = []*reply{listed("10", "")}, []string{"410"}
		}, true, errExpired},
		"410 as an event": {func(_ *driver, c *script) {
			c.lists, c.watches = []*reply{listed("10", "")}, []string{event("ERROR", gone)}
		}, true, errExpired},
		"an event of something else": {func(_ *driver, c *script) {
			c.lists, c.watches = []*reply{listed("10", "")}, []string{event("ADDED", &corev1.Service{TypeMeta: metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}})}
		}, true, errNonsense},
	} {
		t.Run(name, func(t *testing.T) {
			_, synced, _, err := played(t, 0, c.build)
			if !errors.Is(err, c.is) || !fault.Is(err, fault.Unavailable) || synced != c.synced {
				t.Errorf("%v, synced %v; want %v, %v", err, synced, c.is, c.synced)
			}
		})
	}
}

// TestWatchSilent: a watch on which nothing comes, not even a bookmark, is given up and begun anew where it was.
func TestWatchSilent(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a")
	c := &script{news: make(chan struct{}, 1), lists: []*reply{listed("10", "")}}
	s.fail(c.act(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	f := d.followPods(func(*corev1.Pod, bool) {})
	f.silent = 50 * time.Millisecond
	done := make(chan error, 1)
	go func() { done <- f.run(ctx, func() {}) }()
	for len(c.queries()) < 3 {
		<-c.news
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if asked := c.queries(); asked[1] != asked[2] || !strings.HasPrefix(asked[2], "watch=true version=10") {
		t.Errorf("%q", asked)
	}
}
