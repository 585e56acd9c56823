package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// acmeProto is the protocol of a validation by tls-alpn-01 (RFC 8737).
const acmeProto = "acme-tls/1"

// ClientCertificates finds the certificate by which Polygate shows itself to the gateway of a dedicated tenant, as the
// record's Dedicated.Client says. It is asked for each new connection whose upstream wants one, so that a renewed one is
// used by itself. ctx ends with the handshake.
type ClientCertificates interface {
	ClientCertificate(ctx context.Context, e *tenant.Entry) (*tls.Certificate, error)
}

// handshakes makes the TLS of the public listener. It is safe for concurrent use.
type handshakes struct {
	s     *Server
	base  *tls.Config // for hosts that demand nothing of their own; its ticket keys are those of all
	acme  *tls.Config // for the validation of a host, and for nothing else
	terms *termsCache // for hosts that demand more
}

// newHandshakes checks nothing: Config.check has.
func newHandshakes(s *Server) (*handshakes, error) {
	h := &handshakes{s: s, base: s.baseTLS()}
	h.sessions(h.base, demand{})
	h.acme = h.base.Clone()
	h.acme.NextProtos = []string{acmeProto}
	h.acme.MinVersion = tls.VersionTLS12 // that of the validating server (RFC 8737 §3), whatever tenants demand
	h.acme.SessionTicketsDisabled = true // nothing follows
	h.base.GetConfigForClient = h.configFor
	var err error
	h.terms, err = newTermsCache(h.config)
	return h, err
}

// baseTLS is 1.2 or later with authenticated encryption only, and the certificate by server name.
func (s *Server) baseTLS() *tls.Config {
	return &tls.Config{ //nolint:gosec // never below TLS 1.2: see minVersion
		MinVersion: s.minVersion(),
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all AEAD
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.certificate,
	}
}

// minVersion is the platform's.
func (s *Server) minVersion() uint16 { return max(s.cfg.MinVersion, tls.VersionTLS12) }

// SetTicketKeys makes keys the keys of session tickets, from the next handshake on: the first encrypts, all of them decrypt.
// Servers with a key in common resume each other's sessions. Until it is called the server has keys of its own, which
// crypto/tls rotates daily. Without keys it does nothing. It is safe to call at any time.
func (s *Server) SetTicketKeys(keys [][32]byte) {
	if len(keys) > 0 {
		s.handshakes.base.SetSessionTicketKeys(keys)
	}
}

// configFor chooses by the hello how a handshake goes on. A hello that offers acme-tls/1 and nothing else is a validation
// of the host: whoever asks so gets a certificate that is good for that alone, and no HTTP, since net/http hands a protocol
// that it does not know to nobody. Beside other protocols it is not negotiated: a browser could be made to speak it.
func (h *handshakes) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if h.s.passthrough(hello) {
		return nil, errSpliced
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeProto {
		return h.acme, nil
	}
	return h.onTerms(hello)
}

// onTerms returns the config of the terms of the tenant that has the server name; nil, which is base, if there are none.
// A connection that is to show a certificate is noted first and its tenant looked up again then: a change of the record
// between the two has either found the connection or is seen here.
func (h *handshakes) onTerms(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	name := strings.ToLower(hello.ServerName) // DNS names know no case (RFC 6066 §3, case X06)
	for i := range 4 {
		if i > 0 {
			h.s.admissions.drop(hello.Conn)
		}
		e, ok := h.s.cfg.Directory.ByHost(name)
		if !ok {
			return nil, nil // GetCertificate refuses it
		}
		d := h.s.demandOf(e)
		if d == (demand{}) {
			return nil, nil
		}
		if d.ca == "" {
			return h.terms.get(d)
		}
		h.s.admissions.add(hello.Conn, admission{scope: e.Scope, ca: d.ca})
		if now, ok := h.s.cfg.Directory.ByHost(name); ok && now.Scope == e.Scope && h.s.demandOf(now) == d {
			return h.terms.get(d)
		}
	}
	return nil, fmt.Errorf("the terms of %s change all the time", name)
}

// certificate refuses a server name that belongs to nobody before anything is looked up for it, and a handshake without
// one. Returning neither certificate nor error makes crypto/tls alert unrecognized_name (RFC 6066 §3).
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if _, ok := s.cfg.Directory.ByHost(name); !ok && !s.cfg.shared(name) {
		return nil, nil
	}
	return s.cfg.Certificates.GetCertificate(hello)
}

// checkVersion checks Config.MinVersion.
func checkVersion(v uint16) error {
	if !slices.Contains([]uint16{0, tls.VersionTLS12, tls.VersionTLS13}, v) {
		return fmt.Errorf("proxy: Config.MinVersion is %#x: use tls.VersionTLS12 or tls.VersionTLS13", v)
	}
	return nil
}
