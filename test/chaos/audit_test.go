package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// record is what matters here of a line of an audit log.
type record struct {
	Chain string
	Entry struct {
		ID, Tenant, Action, Outcome, Decision string
		RequestID                             string `json:"request_id"`
	}
}

// isChange says whether a record is of a change that the load makes.
func (r record) isChange() bool {
	switch r.Entry.Action {
	case "server.create", "server.delete", "bot.create", "bot.delete", "tenant.update":
		return r.Entry.Decision == "allow" && r.Entry.Outcome == "ok"
	}
	return false
}

// checkAudit waits until the outbox is empty, then reads all replicas' logs: each acknowledged change has one record, no
// record is there twice, and the chains verify.
func (f *fleet) checkAudit(t *testing.T, l *load) {
	if err := f.awaitDrained(90 * time.Second); err != nil {
		t.Errorf("audit: %s", err)
	}
	records := f.readLogs(t)
	byID, byRequest := make(map[string]int), make(map[string]int)
	for _, r := range records {
		if byID[r.Entry.ID]++; byID[r.Entry.ID] == 2 {
			t.Errorf("audit: entry %s (%s of %s) is there twice", r.Entry.ID, r.Entry.Action, r.Entry.Tenant)
		}
		if r.isChange() {
			byRequest[r.Entry.RequestID]++
		}
	}
	acknowledged, bad := 0, 0
	for _, c := range l.changes {
		n := byRequest[c.request]
		if c.acknowledged {
			acknowledged++
		}
		if n > 1 || c.acknowledged && n != 1 {
			if bad++; bad <= 10 {
				t.Errorf("audit: the change of %s by request %s (acknowledged: %v) has %d records", c.tenant, c.request, c.acknowledged, n)
			}
		}
	}
	if bad > 10 {
		t.Errorf("audit: … %d such changes in all", bad)
	}
	t.Logf("audit: %d records, %d acknowledged changes", len(records), acknowledged)
	f.verifyLogs(t)
}

// awaitDrained waits until no replica has entries that are not in a log.
func (f *fleet) awaitDrained(limit time.Duration) error {
	c := f.etcd.Client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		got, err := c.Get(ctx, storeRoot+"a/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		if got.Count == 0 {
			<-time.After(1500 * time.Millisecond) // the records of requests are behind by some intervals
			return nil
		}
		<-time.After(200 * time.Millisecond)
	}
}

func (f *fleet) readLogs(t *testing.T) (out []record) {
	for _, r := range f.replicas {
		paths, err := filepath.Glob(filepath.Join(r.dir, "data", "audit*.jsonl"))
		if err != nil || len(paths) == 0 {
			t.Errorf("%s has no audit log: %v", r.name, err)
		}
		for _, path := range paths {
			file, err := os.Open(path)
			if err != nil {
				t.Error(err)
				continue
			}
			s := bufio.NewScanner(file)
			s.Buffer(nil, 1<<20)
			for s.Scan() {
				var rec record
				if err := json.Unmarshal(s.Bytes(), &rec); err != nil {
					t.Errorf("%s: %v", path, err)
					break
				}
				out = append(out, rec)
			}
			_ = file.Close()
		}
	}
	return out
}

// verifyLogs has the program verify all logs together, against the heads in the registry.
func (f *fleet) verifyLogs(t *testing.T) {
	args := []string{"audit", "verify", "-o", "json"}
	for _, r := range f.replicas {
		args = append(args, "--dir", filepath.Join(r.dir, "data"))
	}
	cmd := exec.Command(f.settings.program, args...)
	env := f.replicas[0].env
	cmd.Env = append(os.Environ(), "POLYGATE_ADMIN_URL="+env["ADMIN_URL"], "POLYGATE_ADMIN_TOKEN="+env["ADMIN_TOKEN"], "POLYGATE_CA="+env["POLYGATE_CA"])
	var errs strings.Builder
	cmd.Stderr = &errs
	if _, err := cmd.Output(); err != nil {
		t.Errorf("polygate audit verify: %v\n%.4000s", err, errs.String())
	}
}
