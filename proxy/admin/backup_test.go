package admin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// archives are archives of a few bytes.
type archives struct {
	entries []audit.Entry
	fail    error  // returned
	after   string // once this was written
	read    string
}

func (a *archives) write(w io.Writer, text string, e audit.Entry) error {
	a.entries = append(a.entries, e)
	if a.fail != nil {
		text = a.after
	}
	if text != "" {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return a.fail
}

func (a *archives) Backup(_ context.Context, w io.Writer, e audit.Entry) error {
	return a.write(w, "all of it", e)
}

func (a *archives) Export(_ context.Context, t *tenant.Entry, recipient string, w io.Writer, e audit.Entry) error {
	if recipient == "nobody" {
		return fault.New(fault.Invalid, "that is no recipient")
	}
	return a.write(w, string(t.Record.ID)+" for "+recipient, e)
}

func (a *archives) Import(_ context.Context, r io.Reader, as tenant.ID, e audit.Entry) (*tenant.Entry, error) {
	b, err := io.ReadAll(r)
	a.read = string(b)
	if err == nil {
		err = a.fail
	}
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, fault.New(fault.Invalid, "this is no archive")
	}
	a.entries = append(a.entries, e)
	return &tenant.Entry{Record: &tenant.Record{ID: as, UID: "u", Revision: 3, State: tenant.StateActive}, Scope: tenant.Scope{}}, nil
}

// secretKeys are two keys.
type secretKeys struct {
	entries []audit.Entry
	to      string
	fail    error
}

func (s *secretKeys) Secrets(context.Context) (admin.SecretStatus, error) {
	return admin.SecretStatus{Keys: []admin.SecretKey{{ID: "a", InForce: true, InFile: true, Wraps: 7}, {ID: "b", InFile: true}}}, nil
}

func (s *secretKeys) Rekey(_ context.Context, to string, e audit.Entry) error {
	if s.fail == nil {
		s.to, s.entries = to, append(s.entries, e)
	}
	return s.fail
}

func TestBackup(t *testing.T) {
	f, a := newFixture(t), &archives{}
	cfg := f.config()
	cfg.Archives = a
	f.rebuild(cfg)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	got := f.want(200, "POST", "/api/v1/backup", "")
	if got.body != "all of it" || got.header.Get("Content-Type") != admin.ArchiveType || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("backup = %q with %v", got.body, got.header)
	}
	if d := got.header.Get("Content-Disposition"); !strings.Contains(d, ".backup") {
		t.Errorf("Content-Disposition = %q", d)
	}
	got = f.want(200, "POST", "/api/v1/tenants/team-a/archive", `{"recipient":"age1x"}`)
	if got.body != "team-a for age1x" {
		t.Errorf("archive = %q", got.body)
	}
	f.want(400, "POST", "/api/v1/tenants/team-a/archive", `{"recipient":"nobody"}`)
	f.want(404, "POST", "/api/v1/tenants/nobody-here/archive", "")
	f.want(400, "POST", "/api/v1/backup", `{"x":1}`)
	if len(a.entries) != 2 || a.entries[0].Action != "backup.create" || a.entries[1].Resource != "tenant/team-a/archive/secrets" || a.entries[1].Tenant != "team-a" {
		t.Errorf("recorded: %+v", a.entries)
	}
}

// TestBackupBrokenOff holds that a half is never taken for the whole: before the first byte there is an error, after it the
// connection breaks.
func TestBackupBrokenOff(t *testing.T) {
	f, a := newFixture(t), &archives{fail: fault.New(fault.Unavailable, "the store is away")}
	cfg := f.config()
	cfg.Archives = a
	f.rebuild(cfg)
	if got := f.want(503, "POST", "/api/v1/backup", ""); !strings.Contains(got.body, "the store is away") {
		t.Errorf("before the first byte: %s", got.body)
	}
	a.after = "half"
	defer func() {
		if p := recover(); !errors.Is(p.(error), http.ErrAbortHandler) { //nolint:forcetypeassert // anything else is to fail
			t.Errorf("after it: %v, want the connection broken off", p)
		}
	}()
	got := f.send("POST", "/api/v1/backup", "")
	t.Errorf("after it: %d %q", got.status, got.body)
}

func TestImport(t *testing.T) {
	f, a := newFixture(t), &archives{}
	cfg := f.config()
	cfg.Archives = a
	f.rebuild(cfg)
	long := strings.Repeat("x", 2<<20) // longer than any other body may be
	head := []string{"Content-Type", "", "Content-Type", admin.ArchiveType}
	got := f.want(201, "POST", "/api/v1/archives?as=team-n", long, head...)
	if a.read != long || got.header.Get("Location") != "/api/v1/tenants/team-n" {
		t.Errorf("read %d bytes, Location %q", len(a.read), got.header.Get("Location"))
	}
	f.want(400, "POST", "/api/v1/archives?as=Not-an-id", long, head...)
	f.want(400, "POST", "/api/v1/archives?like=team-n", long, head...)
	f.want(415, "POST", "/api/v1/archives", "{}")
	a.fail = fault.New(fault.Conflict, "host x is in use")
	f.want(409, "POST", "/api/v1/archives", "x", head...)
}

func TestSecrets(t *testing.T) {
	f, s := newFixture(t), &secretKeys{}
	cfg := f.config()
	cfg.Secrets = s
	f.rebuild(cfg)
	if got := f.want(200, "GET", "/api/v1/secrets", ""); !strings.Contains(got.body, `"wraps":7`) {
		t.Errorf("secrets = %s", got.body)
	}
	f.want(202, "POST", "/api/v1/secrets/rekey", "")
	f.want(202, "POST", "/api/v1/secrets/rekey", `{"key":"b"}`)
	if s.to != "b" || len(s.entries) != 2 || s.entries[1].Action != "secret.rekey" {
		t.Errorf("to %q, recorded %+v", s.to, s.entries)
	}
	s.fail = fault.New(fault.Conflict, "replica r2 has no such key")
	f.want(409, "POST", "/api/v1/secrets/rekey", "")
	cfg.Secrets, cfg.Archives = nil, nil
	f.rebuild(cfg)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.want(503, "GET", "/api/v1/secrets", "")
	f.want(503, "POST", "/api/v1/secrets/rekey", "")
	f.want(503, "POST", "/api/v1/backup", "")
	f.want(503, "POST", "/api/v1/tenants/team-a/archive", "")
	f.want(503, "POST", "/api/v1/archives", "x", "Content-Type", "", "Content-Type", admin.ArchiveType)
}
