package proxy

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"strings"
)

// bindingLabel marks our entry in a session's extra data.
const bindingLabel = "polygate host\x00"

// sessions makes the session tickets of c worth something only on the host that they were issued for, while it is the same
// tenant's, and under the same demand. crypto/tls shares ticket keys among all hosts: a ticket that was issued on one
// tenant's host resumes on another's, and with it whatever was verified in the first handshake (case X07). The keys are
// those of base, whatever c is: net/http serves with a clone, and terms are clones.
func (h *handshakes) sessions(c *tls.Config, d demand) {
	tag := d.tag()
	base := h.base
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		if b := h.s.binding(cs.ServerName, tag); b != nil {
			ss.Extra = append(ss.Extra, b)
		}
		return base.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := base.DecryptTicket(identity, cs)
		if err != nil || ss == nil || !bound(ss, h.s.binding(cs.ServerName, tag)) {
			return nil, nil // a full handshake, which refuses whom it must
		}
		return ss, nil
	}
}

// tag is what a demand adds to a binding: nothing, if it demands nothing. What was shown under other roots, or a lower
// version, is shown anew.
func (d demand) tag() []byte {
	if d == (demand{}) {
		return nil
	}
	b := binary.BigEndian.AppendUint16([]byte{0}, d.min)
	if d.ask {
		b = append(b, "ask"...)
	}
	if d.ca != "" {
		sum := sha256.Sum256([]byte(d.ca))
		b = append(b, sum[:]...)
	}
	return b
}

// binding returns what ties a session to a server name, to the tenant that has it now and to what that demands; nil for a
// name of nobody's. A tenant that is deleted and made again has another uid, and with it no use for the tickets of the first.
func (s *Server) binding(serverName string, tag []byte) []byte {
	name := strings.ToLower(serverName)
	uid := ""
	if e, ok := s.cfg.Directory.ByHost(name); ok {
		uid = e.Scope.UID()
	} else if !s.cfg.shared(name) {
		return nil
	}
	b := make([]byte, 0, len(bindingLabel)+len(name)+1+len(uid)+len(tag))
	b = append(b, bindingLabel...)
	b = append(b, name...)
	b = append(b, 0)
	b = append(b, uid...)
	return append(b, tag...)
}

// bound says whether a session was bound to want.
func bound(ss *tls.SessionState, want []byte) bool {
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
