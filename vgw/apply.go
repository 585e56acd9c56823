package vgw

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
)

// Bounds of one transaction of ApplyCatalog. etcd allows 128 operations by default, of which the claim needs some, and
// requests of 1.5 MiB; a server with all its headers takes some 90 KiB.
const (
	maxWrites     = 96
	maxWriteBytes = 1 << 20
)

// ApplyCatalog makes the servers that a file declares for e's tenant be just these: it adds, changes and removes those with
// source file, and leaves the API's. visit is the system's, at the platform's guard. The same catalog again writes nothing.
// A name that the API has taken is a fault.Conflict that says so; then, or if a declaration is wrong, nothing is applied.
func (m *Mux) ApplyCatalog(ctx context.Context, visit *guard.Visit, e *tenant.Entry, file string, servers []catalog.Server) error {
	names := make(map[string]bool, len(servers))
	for _, s := range servers {
		if err := s.Check(); err != nil {
			return fault.Wrap(fault.Invalid, err, "server %q: %s", s.Name, fault.From(err).Detail)
		}
		if names[s.Name] {
			return fault.New(fault.Invalid, "server %q is declared twice", s.Name)
		}
		names[s.Name] = true
	}
	in, err := m.enter(ctx, e)
	if err != nil {
		return err
	}
	defer in.leave()
	return in.gw.apply(ctx, visit, m.cfg.Guards.For(e).MaxServers(), file, servers)
}

// ServerCount returns how many servers the tenant of e has, whoever declared them.
func (m *Mux) ServerCount(ctx context.Context, e *tenant.Entry) (int, error) {
	return m.count(ctx, e, func(*server) bool { return true })
}

// APIServerCount returns how many servers the tenant of e has that no file declares.
func (m *Mux) APIServerCount(ctx context.Context, e *tenant.Entry) (int, error) {
	return m.count(ctx, e, func(s *server) bool { return s.Source != tenant.SourceFile })
}

func (m *Mux) count(ctx context.Context, e *tenant.Entry, counts func(*server) bool) (n int, err error) {
	in, err := m.enter(ctx, e)
	if err != nil {
		return 0, err
	}
	defer in.leave()
	snap, err := in.gw.catalog(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range snap.servers {
		if counts(s) {
			n++
		}
	}
	return n, nil
}

// difference is what there is to do to the catalog.
type difference struct {
	put    []*server
	remove []removal
	added  int
}

// removal is a server to be deleted, and with it what was delegated of it.
type removal struct {
	name   string
	grants []string
}

func (d *difference) names() (names []string) {
	for _, r := range d.remove {
		names = append(names, r.name)
	}
	return names
}

func (d *difference) grants() (ids []string) {
	for _, r := range d.remove {
		ids = append(ids, r.grants...)
	}
	return ids
}

func (g *Gateway) apply(ctx context.Context, visit *guard.Visit, quota int, file string, declared []catalog.Server) error {
	g.changes.Lock()
	defer g.changes.Unlock()
	snap, err := g.fresh(ctx)
	if err != nil {
		return err
	}
	diff, err := g.compare(snap, file, declared)
	if err != nil || len(diff.put)+len(diff.remove) == 0 {
		return err
	}
	before := len(snap.servers)
	after := before + diff.added - len(diff.remove)
	if quota > 0 && after > quota && after > before {
		return fault.New(fault.Conflict, "over the quota of servers: the catalog makes them %d, max_servers is %d", after, quota)
	}
	for !diff.empty() {
		part := diff.cut(maxWrites)
		if err := g.applyPart(visit, file, part); err != nil {
			return err
		}
		snap = snap.with(part.put, part.names())
		g.servers.Store(snap)
		g.forgetGrants(deleteGrants(part.grants()))
	}
	return nil
}

// applyPart commits one transaction's worth.
func (g *Gateway) applyPart(visit *guard.Visit, file string, part difference) error {
	writes := deleteGrants(part.grants())
	for _, name := range part.names() {
		writes = append(writes, tenant.Write{Kind: kindServer, ID: name})
	}
	for _, s := range part.put {
		w, err := s.write()
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	permit, err := visit.Admit(guard.Effect{Action: authz.CatalogApply, Resource: part.describe(file), Subject: g.scope})
	if err != nil {
		return err
	}
	return permit.Settle(g.commit(records{}, permit, writes...))
}

// compare returns what the declarations change.
func (g *Gateway) compare(snap *snapshot, file string, declared []catalog.Server) (difference, error) {
	var diff difference
	names := make(map[string]bool, len(declared))
	version := g.nextVersion(snap)
	for _, d := range declared {
		names[d.Name] = true
		digest, err := g.declaration(file, d)
		if err != nil {
			return diff, err
		}
		have, ok := snap.find(d.Name)
		if ok && have.Source != tenant.SourceFile {
			return diff, fault.New(fault.Conflict, "server %q was declared through the API already: delete it there or rename it in %s", d.Name, file)
		}
		if ok && have.Digest == digest {
			continue
		}
		s, err := g.seal(d, version)
		if err != nil {
			return diff, err
		}
		s.Source, s.File, s.Digest = tenant.SourceFile, file, digest
		if ok {
			s.ID, s.Created, s.Owner, s.Epoch = have.ID, have.Created, have.Owner, have.Epoch
		} else {
			diff.added++
		}
		diff.put = append(diff.put, s)
	}
	for _, s := range snap.servers {
		if s.Source == tenant.SourceFile && !names[s.Name] {
			diff.remove = append(diff.remove, removal{s.Name, g.grants.Load().idsOf(objectKey{kindServer, s.ID})})
		}
	}
	return diff, nil
}

// declaration returns the digest by which a declaration is known again: sealed values cannot be compared, as sealing the
// same twice differs, and are not opened for it.
func (g *Gateway) declaration(file string, d catalog.Server) (string, error) {
	type header struct{ Name, Value string }
	headers := make([]header, 0, len(d.Headers))
	for name, value := range d.Headers {
		headers = append(headers, header{name, value})
	}
	slices.SortFunc(headers, func(a, b header) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.Marshal(struct {
		File, Name, URL string
		Headers         []header
		Seconds         int64
	}{file, d.Name, d.URL, headers, int64(d.Timeout / time.Second)})
	if err != nil {
		return "", fmt.Errorf("declaration of %s: %w", d.Name, err)
	}
	return g.digest(text), nil
}

func (d *difference) empty() bool { return len(d.put)+len(d.remove) == 0 }

// cut takes up to n changes off d. Removals go first, so that the count never passes what it will be in the end.
func (d *difference) cut(n int) difference {
	var part difference
	k := 0
	for ; k < len(d.remove); k++ {
		need := 1 + len(d.remove[k].grants)
		if need > n && k > 0 {
			break
		}
		n -= need
	}
	part.remove, d.remove = d.remove[:k], d.remove[k:]
	n, k = max(n, 0), 0
	for size := 0; k < min(n, len(d.put)); k++ {
		if size += d.put[k].size(); size > maxWriteBytes && k > 0 {
			break
		}
	}
	part.put, d.put = d.put[:k], d.put[k:]
	return part
}

// size estimates the bytes of a server's record from above: sealed values are stored in base64.
func (s *server) size() int {
	n := 512 + len(s.Name) + len(s.URL) + len(s.File)
	for _, h := range s.Headers {
		n += 64 + len(h.Name) + 2*len(h.Value)
	}
	return n
}

// describe names the file and the servers, as the record's resource.
func (d *difference) describe(file string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "catalog/%s", label(file))
	for _, name := range d.names() {
		fmt.Fprintf(&b, " -%s", name)
	}
	for _, s := range d.put {
		fmt.Fprintf(&b, " %s", s.Name)
	}
	return b.String()
}
