package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Registered tenants are made so that they are what the product itself makes, and fast: one tenant is made through the API, with a key
// and a server in its catalog; a backup is taken; its entries of that tenant are written again for every other tenant, with ids and
// hashes of their own; and the product restores that backup, as it would restore any. What binds a data key to its tenant cannot be
// written again, so they have none until they need one.

// template is a backup with one tenant, and what is the tenant's own in it.
type template struct {
	*backup
	own []string // words that are random and the tenant's: name, UIDs, hash
	kek string   // file
}

// templateID is the name of the tenant that is copied; no other word of a record is like it, and copies have names as long.
const templateID = "tenant-template"

// makeTemplate runs a gateway with one tenant and backs it up.
func makeTemplate(ctx context.Context, c CapacityConfig, server string) (_ *template, err error) {
	t := &template{kek: filepath.Join(c.Dir, "kek")}
	if err := writeKEK(t.kek); err != nil {
		return nil, err
	}
	r, err := newReplica(c.Binary, platform{dir: filepath.Join(c.Dir, "template"), domain: c.Domain, replica: "replica-0", kek: t.kek}, nil)
	if err != nil {
		return nil, err
	}
	defer r.destroy()
	if err := r.up(ctx); err != nil {
		return nil, err
	}
	if err := t.make(ctx, r, c.Domain, server); err != nil {
		return nil, fmt.Errorf("make a tenant to copy: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callLimit, errors.New("the records of the tenant's making do not leave the outbox"))
	defer cancel()
	return t, await(ctx, func() error { return t.take(ctx, c.Binary, r) })
}

// make makes the tenant as an operator and its admin do.
func (t *template) make(ctx context.Context, r *replica, domain, server string) error {
	var tenant struct{ UID string }
	if err := r.operator(ctx, http.MethodPost, "/api/v1/tenants", object{"id": templateID}, &tenant); err != nil {
		return err
	}
	var key struct{ ID, Key string }
	if err := r.operator(ctx, http.MethodPost, "/api/v1/tenants/"+templateID+"/keys", object{"name": "bench", "role": "admin"}, &key); err != nil {
		return err
	}
	roots, err := r.authority()
	if err != nil {
		return err
	}
	hc := hostClient(r.public, roots)
	defer hc.CloseIdleConnections()
	var made struct{ ID string }
	err = call(ctx, hc, http.MethodPost, "https://"+templateID+"."+domain+"/api/v1/servers", key.Key, object{"name": "bench", "url": server}, &made)
	t.own = []string{templateID, tenant.UID, key.ID, hexSum(key.Key), made.ID}
	return err
}

// take takes a backup in which no record waits to be written to the log any more.
func (t *template) take(ctx context.Context, binary string, r *replica) error {
	file := filepath.Join(r.dir, "backup")
	_ = os.Remove(file)
	cmd := exec.CommandContext(ctx, binary, "backup", "--file", file) //nolint:gosec // the program to measure
	cmd.Env = append(os.Environ(), "POLYGATE_ADMIN_URL=https://"+r.admin, "POLYGATE_ADMIN_TOKEN="+r.token, "POLYGATE_CA="+filepath.Join(r.dir, "data", "ca.pem"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("back up: %w: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if t.backup, err = readBackup(b); err != nil {
		return err
	}
	for _, e := range t.entries {
		if strings.HasPrefix(e.name, "a/") && strings.Contains(e.name, "/"+templateID+"/") {
			return errors.New("the tenant's records are on their way")
		}
	}
	return nil
}

// capacityTenant is the name of the i-th registered tenant, as long as templateID.
func capacityTenant(i int) string { return fmt.Sprintf("tenant-%08d", i) }

// capacityKey is its admin's key.
func capacityKey(i int) string { return "bench-capacity-" + capacityTenant(i) }

// copies writes a backup with so many tenants in place of the one.
func (t *template) copies(f *os.File, n int) error {
	var platform, tenant []archived
	for _, e := range t.entries {
		switch {
		case strings.HasPrefix(e.name, "a/") || strings.Contains(e.name, "/"+templateID+"/datakey/"):
		case t.names(e):
			tenant = append(tenant, e)
		default:
			platform = append(platform, e)
		}
	}
	a := newArchiver(f, t.manifest)
	for _, e := range platform {
		a.put(e)
	}
	for i := range n {
		words := t.replacer(i)
		for _, e := range tenant {
			a.put(archived{words.Replace(e.name), []byte(words.Replace(string(e.value)))})
		}
	}
	return a.close(t.end)
}

// names says whether an entry is of the tenant.
func (t *template) names(e archived) bool {
	for _, w := range t.own {
		if strings.Contains(e.name, w) {
			return true
		}
	}
	return false
}

// replacer puts what is the i-th tenant's own in the place of what is the template's.
func (t *template) replacer(i int) *strings.Replacer {
	id := capacityTenant(i)
	var pairs []string
	for j, word := range t.own {
		with := uuidOf(fmt.Sprintf("%s/%d", id, j))
		switch j {
		case 0:
			with = id
		case 3:
			with = hexSum(capacityKey(i))
		}
		pairs = append(pairs, word, with)
	}
	return strings.NewReplacer(pairs...)
}

// uuidOf makes a UUID of a name.
func uuidOf(name string) string {
	h := hexSum(name)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:32]
}

// restore fills the empty registry of a replica that does not run with n tenants.
func (t *template) restore(ctx context.Context, binary string, r *replica, n int) error {
	file := filepath.Join(r.dir, "copies")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	if err := errors.Join(t.copies(f, n), f.Close()); err != nil {
		return fmt.Errorf("write %d tenants: %w", n, err)
	}
	cmd := exec.CommandContext(ctx, binary, "restore", "--config", filepath.Join(r.dir, "polygate.yaml"), "--file", file) //nolint:gosec // the program to measure
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("restore %d tenants: %w: %s", n, err, out[max(0, len(out)-lastWords):])
	}
	return nil
}

// knows fails unless the gateway knows so many tenants.
func (r *replica) knows(ctx context.Context, n int) error {
	var st struct{ Registered int }
	err := r.operator(ctx, http.MethodGet, "/api/v1/status", nil, &st)
	if err == nil && st.Registered != n {
		err = fmt.Errorf("the gateway knows %d tenants, not %d", st.Registered, n)
	}
	return err
}

// opened fails unless so many tenants' gateways are open: a tenant that is said to be active costs something.
func (r *replica) opened(ctx context.Context, n int) error {
	var st struct{ Tenants int }
	err := r.operator(ctx, http.MethodGet, "/api/v1/status", nil, &st)
	if err == nil && st.Tenants != n {
		err = fmt.Errorf("the gateways of %d tenants are open, not of %d", st.Tenants, n)
	}
	return err
}
