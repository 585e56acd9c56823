package peer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// HAProxy is HAProxy as Debian has it: one backend per tenant, found by a map of hosts, one thread per core.
func HAProxy(o ...Option) Peer { return &haproxy{choose(o)} }

type haproxy struct{ options }

func (*haproxy) Name() string { return "haproxy" }

func (*haproxy) Version(ctx context.Context) (string, error) {
	path, err := find("haproxy")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "-v").Output() //nolint:gosec // found on the PATH
	if err != nil {
		return "", fmt.Errorf("ask haproxy for its version: %w", err)
	}
	// HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
	_, version, _ := strings.Cut(string(out), "version ")
	version, _, _ = strings.Cut(version, " ")
	return strings.TrimSpace(version), nil
}

func (h *haproxy) Start(ctx context.Context, s *Site) (Running, error) {
	path, err := find("haproxy")
	if err != nil {
		return nil, err
	}
	c := configured{name: "haproxy", write: func(dir string, s *Site, port int) ([]string, error) {
		// -db: in the foreground, without a master that it would need only for reloads
		return []string{path, "-db", "-f", "haproxy.cfg"}, h.write(dir, s, port)
	}}
	return running(c.start(ctx, s, s.Dir))
}

// write writes the configuration and what it names: certificates with their keys, and the maps. HAProxy runs in that folder and the
// names are relative to it, so that no character of its path means anything in the files.
func (h *haproxy) write(dir string, s *Site, port int) error {
	if err := os.MkdirAll(filepath.Join(dir, "certs"), 0o700); err != nil {
		return err
	}
	if s.Auth == JWTAuth {
		if err := join(filepath.Join(dir, "jwt.pem"), s.JWT.KeyFile); err != nil {
			return err
		}
	}
	var list, hosts, keys bytes.Buffer
	for i := range s.Tenants {
		t := &s.Tenants[i]
		file := filepath.Join("certs", t.Host+".pem")
		if err := join(filepath.Join(dir, file), t.CertFile, t.KeyFile); err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s %s\n", file, t.Host)
		fmt.Fprintf(&hosts, "%s %s\n", t.Host, t.Name)
		fmt.Fprintf(&keys, "%s %s\n", t.Key, t.Name)
	}
	text, err := fill(haproxyTemplate, haproxySite{
		Site: s, Listen: fmt.Sprintf("%s:%d", listenOn, port), Connections: connections(), Threads: len(s.Cores), Log: !h.noLog, GRPC: grpcService,
	})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"haproxy.cfg": text, "certs.list": list.Bytes(), "hosts.map": hosts.Bytes(), "keys.map": keys.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// connections is how many HAProxy may serve at once. Each takes two files, and it does not start if it may not have them.
func connections() int { return max(64, min(maxConnections, (openFiles()-1024)/2)) }

// join writes files one after the other into one.
func join(to string, from ...string) error {
	var all []byte
	for _, name := range from {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(to, all, 0o600)
}

// haproxySite is what HAProxy's template is filled with.
type haproxySite struct {
	*Site
	Listen               string
	Connections, Threads int
	Log                  bool
	GRPC                 string
}

// haproxyTemplate is haproxy.cfg. Who calls is checked against the tenant that the request is for: that of its Host, which also chooses
// the backend. A token's audience is a string, or an array whose first entry counts. Its log goes to its standard output, and so
// into a file, a line at a time.
const haproxyTemplate = `global
	maxconn {{.Connections}}
{{with .Threads}}	nbthread {{.}}
{{end}}{{if .Log}}	log stdout format raw local0 info
{{end}}	ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
	mode http
{{if .Log}}	log global
	option httplog
{{end}}	option forwardfor
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
	timeout http-keep-alive 1h
	timeout http-request 30s
	http-reuse always
frontend tenants
	bind {{.Listen}} ssl crt-list certs.list strict-sni alpn h2,http/1.1 backlog 4096
	http-request set-var(txn.tenant) "req.hdr(host),field(1,:),lower,map_str(hosts.map)"
	http-request deny deny_status 421 unless { var(txn.tenant) -m found }
{{if eq .Auth "key"}}	http-request set-var(txn.caller) "http_auth_bearer,map_str(keys.map)"
	http-request deny deny_status 401 unless { var(txn.caller),strcmp(txn.tenant) eq 0 }
{{end}}{{if eq .Auth "jwt"}}	http-request set-var(txn.bearer) http_auth_bearer
	http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
	http-request deny deny_status 401 unless { var(txn.alg) -m str ES256 }
	http-request deny deny_status 401 unless { var(txn.bearer),jwt_verify(txn.alg,jwt.pem) -m int 1 }
	http-request deny deny_status 401 unless { var(txn.bearer),jwt_payload_query('$.iss') -m str "{{.JWT.Issuer}}" }
	http-request set-var(txn.caller) var(txn.bearer),jwt_payload_query('$.aud[0]')
	http-request set-var(txn.caller) var(txn.bearer),jwt_payload_query('$.aud') unless { var(txn.caller) -m found }
	http-request deny deny_status 401 unless { var(txn.caller),strcmp(txn.tenant) eq 0 }
	http-request set-var(txn.now) date()
	http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
	http-request deny deny_status 401 unless { var(txn.exp),sub(txn.now) gt 0 }
{{end}}	http-request set-header X-Forwarded-Proto https
	http-request set-header X-Forwarded-Host %[req.hdr(host)]
{{if .Upstream.H2C}}	use_backend %[var(txn.tenant)]_grpc if { path_beg {{.GRPC}} }
{{end}}	use_backend %[var(txn.tenant)]
{{range .Tenants}}backend {{.Name}}
	server upstream {{.Upstream}}
{{if $.Upstream.H2C}}backend {{.Name}}_grpc
	server upstream {{.Upstream}} proto h2
{{end}}{{end}}`
