package vgw

import (
	"context"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
	"github.com/polygate/polygate/vgw/mcp"
)

// A server is stored as t/<tenant>/server/<name>. Readers accept serverVersion and the next.
const (
	kindServer    = "server"
	serverVersion = 1
)

// server is an MCP server of the catalog, as stored and as held in memory. It is immutable.
type server struct {
	V       int            `json:"v"`
	ID      string         `json:"id"` // UUID, never reused
	Name    string         `json:"name"`
	URL     string         `json:"url"`
	Headers []sealedHeader `json:"headers,omitempty"`   // sorted by name
	Timeout int            `json:"timeout_s,omitempty"` // seconds; 0 = the platform's default
	Source  tenant.Source  `json:"source"`              // api or file
	File    string         `json:"file,omitempty"`      // the declaring file
	Owner   string         `json:"owner,omitempty"`     // Ref of who made it; "" = the tenant, as for those of a file
	// Epoch is when the authenticator of an owner that is a user was made, as with grant.Epoch.
	Epoch   time.Time `json:"authenticator_created,omitzero"`
	Digest  string    `json:"declaration,omitempty"` // keyed digest of the file's declaration
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Version int64     `json:"version"` // resource_version: rises with each change, and over those of deleted ones

	endpoint catalog.Endpoint
}

// sealedHeader is a header to send. The value is sealed with the tenant's data key, bound to tenant, server and header, and
// opened only to be sent.
type sealedHeader struct {
	Name  string `json:"name"` // canonical
	Value []byte `json:"sealed"`
}

// snapshot is all servers of a tenant, sorted by name. It is immutable.
type snapshot struct {
	servers []*server
	version int64 // the highest Version ever seen by this gateway
}

func byName(s *server, name string) int { return strings.Compare(s.Name, name) }

func (s *snapshot) find(name string) (*server, bool) {
	i, ok := slices.BinarySearchFunc(s.servers, name, byName)
	if !ok {
		return nil, false
	}
	return s.servers[i], true
}

func (s *snapshot) byID(id string) (*server, bool) {
	for _, found := range s.servers {
		if found.ID == id {
			return found, true
		}
	}
	return nil, false
}

// with returns s with some servers put in or replaced, and others taken out.
func (s *snapshot) with(put []*server, remove []string) *snapshot {
	next := &snapshot{version: s.version, servers: slices.DeleteFunc(slices.Clone(s.servers), func(have *server) bool {
		return slices.Contains(remove, have.Name) || slices.ContainsFunc(put, func(p *server) bool { return p.Name == have.Name })
	})}
	next.servers = append(next.servers, put...)
	slices.SortFunc(next.servers, func(a, b *server) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range put {
		next.version = max(next.version, p.Version)
	}
	return next
}

// load reads all servers from the store.
func (g *Gateway) load(ctx context.Context) (*snapshot, error) {
	objects, err := g.claim.Load(ctx, kindServer)
	if err != nil {
		return nil, fmt.Errorf("load servers: %w", err)
	}
	snap := &snapshot{servers: make([]*server, 0, len(objects))}
	for _, o := range objects {
		s, err := decodeServer(o)
		if err != nil {
			return nil, err
		}
		snap.servers = append(snap.servers, s)
		snap.version = max(snap.version, s.Version)
	}
	slices.SortFunc(snap.servers, func(a, b *server) int { return strings.Compare(a.Name, b.Name) })
	return snap, nil
}

func decodeServer(o tenant.Object) (*server, error) {
	s := new(server)
	if err := json.Unmarshal(o.Value, s); err != nil {
		return nil, fmt.Errorf("server %q: %w", o.ID, err)
	}
	if s.V < serverVersion || s.V > serverVersion+1 || s.Name != o.ID {
		return nil, fmt.Errorf("server %q: record of version %d, name %q", o.ID, s.V, s.Name)
	}
	endpoint, err := catalog.ParseURL(s.URL)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", o.ID, err)
	}
	s.endpoint = endpoint
	return s, nil
}

// catalog returns the servers as they are, reading them again if a commit's outcome was unknown.
func (g *Gateway) catalog(ctx context.Context) (*snapshot, error) {
	if !g.stale.Load() {
		return g.servers.Load(), nil
	}
	g.changes.Lock()
	defer g.changes.Unlock()
	return g.fresh(ctx)
}

// fresh is catalog for who holds changes. Who left while waiting for them, or was made to, changes nothing any more.
func (g *Gateway) fresh(ctx context.Context) (*snapshot, error) {
	if ctx.Err() != nil {
		return nil, left(ctx)
	}
	if !g.stale.Load() {
		return g.servers.Load(), nil
	}
	snap, err := g.load(ctx)
	if err != nil {
		return nil, err
	}
	grants, err := g.loadGrants(ctx)
	if err != nil {
		return nil, err
	}
	snap.version = max(snap.version, g.servers.Load().version)
	g.servers.Store(snap)
	g.setGrants(grants)
	g.stale.Store(false)
	return snap, nil
}

// nextVersion returns a resource version above every one that the tenant's servers had: the clock's, where that rises.
func (g *Gateway) nextVersion(s *snapshot) int64 { return max(g.now().UnixMicro(), s.version+1) }

// seal makes the record of a declaration.
func (g *Gateway) seal(d catalog.Server, version int64) (*server, error) {
	endpoint, err := catalog.ParseURL(d.URL)
	if err != nil {
		return nil, err
	}
	now := g.now().UTC()
	s := &server{
		V: serverVersion, ID: uuid.NewString(), Name: d.Name, URL: d.URL, Timeout: int(d.Timeout / time.Second),
		Source: tenant.SourceAPI, Created: now, Updated: now, Version: version, endpoint: endpoint,
	}
	for name, value := range d.Headers {
		name = textproto.CanonicalMIMEHeaderKey(name)
		sealed, err := g.key.Seal([]byte(value), g.scope.UID(), kindServer, d.Name, name)
		if err != nil {
			return nil, fmt.Errorf("seal header %s: %w", name, err)
		}
		s.Headers = append(s.Headers, sealedHeader{name, sealed})
	}
	slices.SortFunc(s.Headers, func(a, b sealedHeader) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

func (s *server) write() (tenant.Write, error) {
	value, err := json.Marshal(s)
	if err != nil {
		return tenant.Write{}, fmt.Errorf("encode server %s: %w", s.Name, err)
	}
	return tenant.Write{Kind: kindServer, ID: s.Name, Value: value}, nil
}

// upstream returns a server to relay to, its headers opened.
func (g *Gateway) upstream(ctx context.Context, name string) (mcp.Server, error) {
	snap, err := g.catalog(ctx)
	if err != nil {
		return mcp.Server{}, err
	}
	s, ok := snap.find(name)
	if !ok {
		return mcp.Server{}, noServer(name)
	}
	out := mcp.Server{
		Name: s.Name, ID: s.ID, Endpoint: s.endpoint, Timeout: time.Duration(s.Timeout) * time.Second,
		Trusted: s.Source == tenant.SourceFile,
	}
	if len(s.Headers) > 0 {
		out.Headers = make(map[string]string, len(s.Headers))
	}
	for _, h := range s.Headers {
		value, err := g.key.Open(h.Value, g.scope.UID(), kindServer, s.Name, h.Name)
		if err != nil {
			return mcp.Server{}, fmt.Errorf("header %s of server %s: %w", h.Name, s.Name, err)
		}
		out.Headers[h.Name] = string(value)
	}
	return out, nil
}

func noServer(name string) error { return fault.New(fault.NotFound, "no server %q", name) }

// create adds a server that the API declared, under its quota, as its owner's. Commit, then memory.
func (g *Gateway) create(ctx context.Context, rights records, permit *guard.Permit, d catalog.Server, by owner, quota int) (*server, error) {
	g.changes.Lock()
	defer g.changes.Unlock()
	snap, err := g.fresh(ctx)
	if err != nil {
		return nil, err
	}
	if have, ok := snap.find(d.Name); ok {
		return nil, taken(have)
	}
	if n := len(snap.servers); quota > 0 && n >= quota {
		return nil, fault.New(fault.Conflict, "over the quota of servers: there are %d, max_servers is %d", n, quota)
	}
	s, err := g.seal(d, g.nextVersion(snap))
	if err != nil {
		return nil, err
	}
	s.Owner, s.Epoch = by.ref, by.epoch
	w, err := s.write()
	if err != nil {
		return nil, err
	}
	if err := g.commit(rights, permit, w); err != nil {
		return nil, err
	}
	g.servers.Store(snap.with([]*server{s}, nil))
	return s, nil
}

func taken(s *server) error {
	if s.Source == tenant.SourceFile {
		return fault.New(fault.Conflict, "server %q is declared in the file %s: change it there", s.Name, s.File)
	}
	return fault.New(fault.Conflict, "there is a server %q already", s.Name)
}

// remove deletes a server that the API declared, with what was delegated of it, if pre allows its version and it is the one
// that was admitted.
func (g *Gateway) remove(ctx context.Context, by records, permit *guard.Permit, name, id string, pre precondition) error {
	g.changes.Lock()
	defer g.changes.Unlock()
	snap, err := g.fresh(ctx)
	if err != nil {
		return err
	}
	s, ok := snap.find(name)
	switch {
	case !ok || s.ID != id:
		return noServer(name)
	case s.Source == tenant.SourceFile:
		return taken(s)
	case !pre.allows(s.Version):
		return stale(s.Version)
	}
	gone := g.grants.Load().idsOf(objectKey{kindServer, s.ID})
	if err := g.commit(by, permit, append(deleteGrants(gone), tenant.Write{Kind: kindServer, ID: name})...); err != nil {
		return err
	}
	g.servers.Store(snap.with(nil, []string{name}))
	g.forgetGrants(deleteGrants(gone))
	return nil
}
