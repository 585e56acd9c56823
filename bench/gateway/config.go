package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/polygate/polygate/bench/peer"
)

// The product's configuration files, as far as a measurement sets them; all else is as a new installation has it. They are written as
// JSON, which is YAML.

// beyond is a quota that no load reaches, and the largest: quotas are checked, they do not bind.
const beyond = 1_000_000

type object = map[string]any

// platform is what one replica's polygate.yaml says.
type platform struct {
	dir, domain              string // dir is the replica's own
	public, admin, telemetry string
	peer, replica            string   // with an etcd of their own
	etcd                     []string // "" = inside the process
	kek                      string   // file
	ttl                      time.Duration
	tenants                  string // file; "" = none
	certificates             int    // resident
}

// yaml renders it.
func (p platform) yaml() ([]byte, error) {
	listen := object{"public": p.public, "plain": "", "admin": p.admin, "telemetry": p.telemetry}
	m := object{
		"data_dir": filepath.Join(p.dir, "data"), "base_domain": p.domain, "kek_file": p.kek, "listen": listen,
		"egress": object{"allow": []string{"127.0.0.0/8"}}, // where the upstream and the issuer are
		"limits": object{"max_connections": 100_000, "max_streams": 100_000, "resident_certificates": max(10_000, p.certificates)},
		"quotas": object{
			"max_concurrent_requests": beyond, "requests_per_second": beyond, "burst": beyond, "max_streams": beyond,
			"bytes_per_second": "512GiB", "bytes_burst": "512GiB", "max_servers": 1000,
		},
	}
	if p.tenants != "" {
		m["tenants_file"] = p.tenants
	}
	replica := object{"name": p.replica}
	if len(p.etcd) > 0 {
		m["etcd"], listen["peer"] = object{"endpoints": p.etcd}, p.peer
	}
	if p.ttl > 0 {
		replica["ttl"] = p.ttl.String()
	}
	m["replica"] = replica
	return json.MarshalIndent(m, "", "  ")
}

// refuse says what the product has no means for.
func (o Options) refuse(s *peer.Site) error {
	switch {
	case len(s.Tenants) == 0:
		return fmt.Errorf("polygate: the site has no tenants: give it one at least")
	case o.Virtual && s.Auth == peer.NoAuth:
		return fmt.Errorf("polygate %w: virtual tenants serve nobody without a credential: measure with keys", peer.ErrCannot)
	case !o.Virtual && s.Upstream.H2C && o.TLSPort == 0:
		return fmt.Errorf("polygate %w: it speaks HTTP/2 to upstreams over TLS only, and the site has none with TLS", peer.ErrCannot)
	}
	return nil
}

// tenantsYAML renders tenants.yaml, a tenant a line. display is the name for people of the first one: what a reload changes.
func (o Options) tenantsYAML(s *peer.Site, display string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("tenants:\n")
	for i := range s.Tenants {
		t, err := o.tenant(s, &s.Tenants[i])
		if err != nil {
			return nil, err
		}
		if i == 0 && display != "" {
			t["display_name"] = display
		}
		line, err := json.Marshal(t)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "  - %s\n", line)
	}
	return b.Bytes(), nil
}

// tenant is what is declared of one.
func (o Options) tenant(s *peer.Site, t *peer.Tenant) (object, error) {
	m := object{"id": t.Name, "certificates": object{
		"source": "provided", "files": []object{{"cert_file": t.CertFile, "key_file": t.KeyFile}},
	}}
	switch s.Auth {
	case peer.NoAuth:
	case peer.KeyAuth:
		m["api_keys"] = []object{{"name": "bench", "key_hash": keyHash(t.Key), "role": "editor"}}
	case peer.JWTAuth:
		m["authenticators"] = []object{{"name": "bench", "type": "oidc", "default_role": "editor", "oidc": object{
			"issuer": s.JWT.Issuer, "audiences": []string{t.Name}, "algorithms": []string{"ES256"}, "ca_file": s.JWT.CAFile,
		}}}
	default:
		return nil, fmt.Errorf("polygate %w: %q is no check that it knows", peer.ErrCannot, s.Auth)
	}
	if o.Virtual {
		m["mode"], m["catalog_file"] = "virtual", catalogFile(t)
		return m, nil
	}
	dedicated, err := o.dedicated(s, t)
	m["mode"], m["dedicated"] = "dedicated", dedicated
	return m, err
}

// dedicated says where a tenant's own gateway is, which is the upstream.
func (o Options) dedicated(s *peer.Site, t *peer.Tenant) (object, error) {
	auth := "gateway"
	if s.Auth == peer.NoAuth {
		auth = "upstream"
	}
	if o.TLSPort == 0 {
		return object{"upstream": "http://" + t.Upstream, "auth": auth}, nil
	}
	host, _, err := net.SplitHostPort(t.Upstream)
	if err != nil {
		return nil, fmt.Errorf("polygate: the upstream of tenant %s: %w", t.Name, err)
	}
	return object{
		"upstream": "https://" + net.JoinHostPort(host, strconv.Itoa(o.TLSPort)), "auth": auth, "server_name": t.Host, "ca_file": s.CAFile,
	}, nil
}

// catalogFile is the name of a virtual tenant's catalog, beside tenants.yaml.
func catalogFile(t *peer.Tenant) string { return "catalog-" + t.Name + ".yaml" }

func catalogYAML(t *peer.Tenant) ([]byte, error) {
	return json.Marshal(object{"servers": []object{{"name": "bench", "url": "http://" + t.Upstream + "/mcp"}}})
}

// keyHash is what is declared of an API key.
func keyHash(key string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key))) }

// writeTenants writes tenants.yaml and the catalogs that it names into a folder.
func (o Options) writeTenants(dir string, s *peer.Site) error {
	if o.Virtual {
		for i := range s.Tenants {
			b, err := catalogYAML(&s.Tenants[i])
			if err != nil {
				return err
			}
			if err := replaceFile(filepath.Join(dir, catalogFile(&s.Tenants[i])), b); err != nil {
				return err
			}
		}
	}
	b, err := o.tenantsYAML(s, "")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, "tenants.yaml"), b)
}

// replaceFile writes a file so that whoever reads it meanwhile sees the old or the new one whole.
func replaceFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
