package acmetest

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// SetTXT adds a TXT record.
func (s *Server) SetTXT(host, value string) {
	s.t.Helper()
	s.admin("set-txt", map[string]any{"host": fqdn(host), "value": value})
}

// ClearTXT removes all TXT records of a host.
func (s *Server) ClearTXT(host string) {
	s.t.Helper()
	s.admin("clear-txt", map[string]any{"host": fqdn(host)})
}

// SetA makes a host answer with these addresses in place of the default.
func (s *Server) SetA(host string, ips ...string) {
	s.t.Helper()
	s.admin("clear-a", map[string]any{"host": fqdn(host)})
	s.admin("add-a", map[string]any{"host": fqdn(host), "addresses": ips})
}

// AddCAA adds a CAA record. Pebble itself looks at none: see Stage for a refusal.
func (s *Server) AddCAA(host, tag, value string) {
	s.t.Helper()
	s.admin("add-caa", map[string]any{"host": fqdn(host), "policies": []map[string]string{{"tag": tag, "value": value}}})
}

// ServFail makes every query for a host fail, or lets them be answered again.
func (s *Server) ServFail(host string, on bool) {
	s.t.Helper()
	path := "clear-servfail"
	if on {
		path = "set-servfail"
	}
	s.admin(path, map[string]any{"host": fqdn(host)})
}

func fqdn(host string) string {
	if host == "" || host[len(host)-1] == '.' {
		return host
	}
	return host + "."
}

// admin posts to the management of the challenge test server.
func (s *Server) admin(path string, body any) {
	s.t.Helper()
	if err := s.tryAdmin(path, body); err != nil {
		s.t.Fatalf("acmetest: %s: %v", path, err)
	}
}

func (s *Server) tryAdmin(path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := s.client.Post("http://"+s.dnsAdmin+"/"+path, "application/json", bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("acmetest: %s", resp.Status)
	}
	return nil
}

// issued counts certificates by name. The server's log names serial numbers only, so each is asked for once.
type issued struct {
	mu    sync.Mutex      // guards what follows
	seen  map[string]bool // serial numbers
	count map[string]int
}

// Orders returns how many certificates were issued for a name, also before a restart.
func (s *Server) Orders(name string) int {
	s.t.Helper()
	return s.Issued()[name]
}

// Issued returns how many certificates were issued, by name.
func (s *Server) Issued() map[string]int {
	s.t.Helper()
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	if s.names.seen == nil {
		s.names.seen, s.names.count = map[string]bool{}, map[string]int{}
	}
	for _, m := range regexp.MustCompile(`Issued certificate serial ([0-9a-f]+) for order`).FindAllStringSubmatch(s.Log(), -1) {
		if serial := m[1]; !s.names.seen[serial] {
			s.names.seen[serial] = true
			for _, name := range s.status(serial).leaf.DNSNames {
				s.names.count[name]++
			}
		}
	}
	out := make(map[string]int, len(s.names.count))
	for name, n := range s.names.count {
		out[name] = n
	}
	return out
}

// Revoked returns why a certificate was revoked (RFC 5280 §5.3.1), and whether it was.
func (s *Server) Revoked(leaf *x509.Certificate) (reason int, ok bool) {
	s.t.Helper()
	st := s.status(leaf.SerialNumber.Text(16))
	return st.Reason, st.Status == "Revoked"
}

type status struct {
	Status      string
	Certificate string
	Reason      int
	leaf        *x509.Certificate
}

func (s *Server) status(serial string) status {
	s.t.Helper()
	var st status
	if err := json.Unmarshal(s.get("/cert-status-by-serial/"+serial), &st); err != nil {
		s.t.Fatal(err)
	}
	b, _ := pem.Decode([]byte(st.Certificate))
	if b == nil {
		s.t.Fatalf("acmetest: the server shows no certificate %s", serial)
		return st
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	st.leaf = leaf
	return st
}

// SetRenewalWindow makes the server suggest when a certificate is to be renewed (RFC 9773).
func (s *Server) SetRenewalWindow(leafChainPEM []byte, start, end time.Time) {
	s.t.Helper()
	ari, err := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": start.UTC(), "end": end.UTC()}})
	if err != nil {
		s.t.Fatal(err)
	}
	b, _ := pem.Decode(leafChainPEM)
	if b == nil {
		s.t.Fatal("acmetest: no PEM")
	}
	body, err := json.Marshal(map[string]string{"Certificate": string(pem.EncodeToMemory(b)), "ARIResponse": string(ari)})
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.client.Post("https://"+s.manage+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("acmetest: set-renewal-info: %s", resp.Status)
	}
}
