package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// admission is under whose roots a connection had to show a certificate.
type admission struct {
	scope  tenant.Scope
	ca     string
	digest []byte // SHA-256 of ca, where another replica let the connection in; ca is not known then
}

// admissions holds the connections of tenants that demand client certificates, and no others: those whose roots have changed
// since their handshake are found here, idle ones too (case X08). It is safe for concurrent use.
type admissions struct {
	mu    sync.Mutex
	conns map[net.Conn]*admission               // guarded by mu; by the connection below TLS
	of    map[tenant.ID]map[net.Conn]*admission // guarded by mu; the same, by tenant
}

func newAdmissions() *admissions {
	return &admissions{conns: make(map[net.Conn]*admission), of: make(map[tenant.ID]map[net.Conn]*admission)}
}

// add notes a connection, before its handshake goes on.
func (a *admissions) add(c net.Conn, ad admission) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(c)
	id := ad.scope.ID()
	if a.of[id] == nil {
		a.of[id] = make(map[net.Conn]*admission)
	}
	a.conns[c], a.of[id][c] = &ad, &ad
}

// drop forgets a connection, if it is known.
func (a *admissions) drop(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(c)
}

// remove is called with mu held.
func (a *admissions) remove(c net.Conn) {
	ad, ok := a.conns[c]
	if !ok {
		return
	}
	delete(a.conns, c)
	id := ad.scope.ID()
	delete(a.of[id], c)
	if len(a.of[id]) == 0 {
		delete(a.of, id)
	}
}

// get returns how a connection was let in; nil for one that had nothing to show.
func (a *admissions) get(c net.Conn) *admission {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns[c]
}

// stale returns the connections of a tenant that e would not have let in in this way. e is nil if it is deleted.
func (a *admissions) stale(id tenant.ID, e *tenant.Entry) []net.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []net.Conn
	for c, ad := range a.of[id] {
		if !ad.holds(e) {
			list = append(list, c)
		}
	}
	return list
}

// tenants returns those with connections.
func (a *admissions) tenants() []tenant.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]tenant.ID, 0, len(a.of))
	for id := range a.of {
		list = append(list, id)
	}
	return list
}

// holds says whether a handshake on e's hosts would demand now what was demanded then; nil is nothing.
func (ad *admission) holds(e *tenant.Entry) bool {
	ca := ""
	if e != nil && e.Record.TLS != nil {
		ca = e.Record.TLS.ClientCA
	}
	if ad == nil {
		return ca == ""
	}
	if e == nil || e.Scope != ad.scope {
		return false
	}
	if ad.digest != nil {
		sum := sha256.Sum256([]byte(ca))
		return ca != "" && bytes.Equal(sum[:], ad.digest)
	}
	return ca == ad.ca
}

// sum returns the SHA-256 of the roots.
func (ad *admission) sum() []byte {
	sum := sha256.Sum256([]byte(ad.ca))
	return sum[:]
}

// follow is the http.Server's ConnState: what is closed, or taken over, is no connection of net/http's any more. Requests
// that took theirs over remember how they were let in.
func (a *admissions) follow(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		a.drop(below(c))
	}
}

// below returns the connection that carries a TLS connection.
func below(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

// errTerms refuses a request on a connection that was made under other terms than the tenant's present ones. 421 makes
// clients ask again on a new connection, where they are told what is missing.
var errTerms = fault.New(fault.Misdirected, "the connection is from before a change of what this host demands of clients: connect anew")

// boardingPass notes how the request's connection was let in, and until when what it showed is good.
func (f *flight) boardingPass() {
	if v := f.hop.from; v != nil {
		f.admission = v.admission(f.s.cfg.Directory)
	} else if c, ok := f.r.Context().Value(connKey{}).(net.Conn); ok { // not in tests of handlers alone
		f.admission = f.s.admissions.get(below(c))
	}
	if f.admission != nil && f.r.TLS != nil && len(f.r.TLS.PeerCertificates) > 0 {
		f.shownUntil = f.r.TLS.PeerCertificates[0].NotAfter
	}
}

// onTerms says whether the connection of a request on a host of e's could be made now. A host may have come to another
// tenant since the handshake, or its tenant to demand more.
func (f *flight) onTerms(e *tenant.Entry) error {
	if !f.admission.holds(e) || !f.shownUntil.IsZero() && time.Now().After(f.shownUntil) {
		return errTerms
	}
	if t := e.Record.TLS; t != nil && f.r.TLS != nil && f.r.TLS.Version < tlsVersion(t.MinVersion) {
		return errTerms
	}
	return nil
}

// judgeConnection refuses a request on a tenant's host whose connection does not meet the tenant's terms (any more).
func (f *flight) judgeConnection(host string) error {
	f.boardingPass()
	if e, ok := f.s.cfg.Directory.ByHost(host); ok {
		return f.onTerms(e)
	}
	return nil
}

// cutStale closes the connections of a tenant that are from before a change of its roots. The requests on them were ended
// with their cause before.
func (s *Server) cutStale(id tenant.ID, e *tenant.Entry) {
	for _, c := range s.admissions.stale(id, e) {
		_ = c.Close() // below TLS: a client that does not read would hold close_notify up
	}
}

// admissionCheck is how often connections are compared with the records even if nobody told of a change.
const admissionCheck = 10 * time.Second

// watchAdmissions ends what is from before a change that Revalidate was not called for, as after a break of the watch.
func (s *Server) watchAdmissions(ctx context.Context) {
	t := time.NewTicker(admissionCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.checkAdmissions()
	}
}

func (s *Server) checkAdmissions() {
	for _, id := range s.admissions.tenants() {
		e, _ := s.cfg.Directory.ByID(id)
		s.Revalidate(id, e)
	}
}
