package proxy

import (
	"bytes"
	"crypto/tls"
	"strings"

	"github.com/polygate/polygate/internal/authn"
)

// tlsConfig is the TLS of the public listener: 1.2 or later with authenticated encryption only, the certificate by server
// name, and session tickets that are worth something on the host alone that they were issued for.
func (s *Server) tlsConfig() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all AEAD
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.certificate,
	}
	// Both functions use the ticket keys of c itself, which crypto/tls rotates daily: net/http serves with a clone.
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		if b := s.binding(cs.ServerName); b != nil {
			ss.Extra = append(ss.Extra, b)
		}
		return c.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := c.DecryptTicket(identity, cs)
		if err != nil || ss == nil || !s.bound(ss, cs.ServerName) {
			return nil, nil // a full handshake, which refuses whom it must
		}
		return ss, nil
	}
	c.GetConfigForClient = s.clientCertificates(c)
	return c
}

// clientCertificates makes a handshake ask for a certificate where the tenant of the server name wants to see them, and
// nowhere else: a browser would ask its user for one. Whom a certificate stands for is judged with each request, so a
// handshake without one goes on.
func (s *Server) clientCertificates(plain *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	asking := plain.Clone() // its tickets are of plain's keys: see WrapSession
	asking.ClientAuth = tls.RequestClientCert
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s.wantsCertificate(strings.ToLower(hello.ServerName)) {
			return asking, nil
		}
		return nil, nil // as plain says
	}
}

func (s *Server) wantsCertificate(name string) bool {
	if s.cfg.Authenticator == nil {
		return false
	}
	e, ok := s.cfg.Directory.ByHost(name)
	return ok && authn.WantsClientCert(e)
}

// certificate refuses a server name that belongs to nobody before anything is looked up for it, and a handshake without
// one. Returning neither certificate nor error makes crypto/tls alert unrecognized_name (RFC 6066 §3).
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s.binding(hello.ServerName) == nil {
		return nil, nil
	}
	return s.cfg.Certificates.GetCertificate(hello)
}

// bindingLabel marks our entry in a session's extra data.
const bindingLabel = "polygate host\x00"

// binding returns what ties a session to a server name and to the tenant that has it now; nil for a name of nobody's. A
// tenant that is deleted and made again has another uid, and with it no use for the tickets of the first.
func (s *Server) binding(serverName string) []byte {
	name := strings.ToLower(serverName)
	if e, ok := s.cfg.Directory.ByHost(name); ok {
		b := bindingLabel + name + "\x00" + e.Scope.UID()
		if s.wantsCertificate(name) { // a session without a certificate must not resume where one is asked for
			b += "\x00certificate"
		}
		return []byte(b)
	}
	if s.cfg.shared(name) {
		return []byte(bindingLabel + name)
	}
	return nil
}

// bound says whether a session was bound to what the server name stands for now. Without this, a ticket that was issued on
// one tenant's host resumes on another's, and with it whatever was verified in the first handshake (case X07).
func (s *Server) bound(ss *tls.SessionState, serverName string) bool {
	want := s.binding(serverName)
	if want == nil {
		return false
	}
	for _, b := range ss.Extra {
		if bytes.HasPrefix(b, []byte(bindingLabel)) {
			return bytes.Equal(b, want)
		}
	}
	return false
}
