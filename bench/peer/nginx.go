package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
)

// Nginx is nginx as Debian has it: one server block per tenant, one worker process per core.
func Nginx(o ...Option) Peer { return &nginx{choose(o)} }

type nginx struct{ options }

func (*nginx) Name() string { return "nginx" }

func (n *nginx) Version(ctx context.Context) (string, error) {
	path, err := n.binary()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput() //nolint:gosec // found on the PATH
	if err != nil {
		return "", fmt.Errorf("ask nginx for its version: %w", err)
	}
	// nginx version: nginx/1.22.1
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
	return version, nil
}

func (*nginx) binary() (string, error) { return find("nginx") }

// find looks for a Debian package's program, also where only root's PATH leads.
func find(name string) (string, error) {
	for _, try := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(try); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w: install it, on Debian with `apt-get install %s`", name, ErrMissing, name)
}

func (n *nginx) Start(ctx context.Context, s *Site) (Running, error) {
	path, err := n.binary()
	if err != nil {
		return nil, err
	}
	if s.Auth == JWTAuth {
		return nil, fmt.Errorf("nginx %w: its auth_jwt comes with NGINX Plus alone", ErrCannot)
	}
	c := configured{name: "nginx", write: func(dir string, s *Site, port int) ([]string, error) {
		text, err := n.config(s, dir, port)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "nginx.conf")
		return []string{path, "-p", dir, "-c", file, "-e", "error.log"}, os.WriteFile(file, text, 0o600)
	}}
	return running(c.start(ctx, s, s.Dir))
}

// running keeps a nil *single from becoming a Running that is not nil.
func running(r *single, err error) (Running, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// nginxSite is what nginx's template is filled with. Paths are relative to the folder that nginx is told to live in, so that no
// character of the folder's own path means anything in the file.
type nginxSite struct {
	*Site
	Tenants            []nginxTenant
	Listen, User       string
	Workers            string
	Files, Connections int
	Kept, Names        int
	Bucket             int
	Log                bool
	GRPC               string
}

type nginxTenant struct {
	*Tenant
	Cert, CertKey string
}

func (n *nginx) config(s *Site, dir string, port int) ([]byte, error) {
	d := nginxSite{
		Site: s, Listen: fmt.Sprintf("%s:%d", listenOn, port), Workers: workers(s.Cores),
		Files: openFiles(), Connections: maxConnections, Kept: keptEach(len(s.Tenants)), Log: !n.noLog, GRPC: grpcService,
		Names: powerOver(2 * len(s.Tenants)), Bucket: powerOver(longestHost(s.Tenants) + 16),
	}
	var err error
	if d.Tenants, err = nginxTenants(s.Tenants, dir); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		u, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("find out who runs nginx: %w", err)
		}
		d.User = u.Username // else workers become nobody, who cannot enter the folder
	}
	return fill(nginxTemplate, d)
}

func nginxTenants(tenants []Tenant, dir string) ([]nginxTenant, error) {
	all := make([]nginxTenant, len(tenants))
	for i := range tenants {
		t := &tenants[i]
		cert, err := filepath.Rel(dir, t.CertFile)
		if err != nil {
			return nil, err
		}
		key, err := filepath.Rel(dir, t.KeyFile)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(cert+key, "\"'\\${};\n") {
			return nil, fmt.Errorf("nginx cannot name the file %s: choose a folder without quotes, $, {, } and ; in its path", t.CertFile)
		}
		all[i] = nginxTenant{t, cert, key}
	}
	return all, nil
}

// workers is one process per core.
func workers(cores []int) string {
	if len(cores) == 0 {
		return "auto"
	}
	return fmt.Sprint(len(cores))
}

// keptEach is how many idle connections to a tenant's upstream each worker keeps. nginx sets memory aside for all of them.
func keptEach(tenants int) int { return max(32, min(256, 8*keptConnections/tenants)) }

func longestHost(tenants []Tenant) int {
	longest := 0
	for i := range tenants {
		longest = max(longest, len(tenants[i].Host))
	}
	return longest
}

// powerOver is the least power of two that is at least n and 512, as nginx wants the sizes of its hashes.
func powerOver(n int) int {
	p := 64
	for p < n {
		p *= 2
	}
	return p
}

// openFiles is how many files a process may open: two for each connection, as far as we are allowed.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Max, 4*maxConnections))
}

// fill fills a template. Its values are our own: names, ports and paths that Lay made.
func fill(text string, data any) ([]byte, error) {
	t, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

// nginxTemplate is nginx.conf. Limits are far above any load; buffers, ciphers and timers are as nginx has them. Bodies are relayed
// as they come, as the other subjects do. A tenant's upstream has two pools where gRPC is spoken: nginx would send HTTP/1.1 and
// HTTP/2 on the same kept connection.
const nginxTemplate = `daemon off;
{{with .User}}user {{.}};
{{end}}worker_processes {{.Workers}};
worker_rlimit_nofile {{.Files}};
pid "nginx.pid";
error_log "error.log" warn;
events { worker_connections {{.Connections}}; }
http {
	client_body_temp_path "body";
	proxy_temp_path "proxy";
	fastcgi_temp_path "fastcgi";
	uwsgi_temp_path "uwsgi";
	scgi_temp_path "scgi";
	access_log {{if .Log}}"access.log" combined{{else}}off{{end}};
	server_tokens off;
	tcp_nodelay on;
	server_names_hash_max_size {{.Names}};
	server_names_hash_bucket_size {{.Bucket}};
	ssl_protocols TLSv1.2 TLSv1.3;
	ssl_session_cache shared:tls:10m;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	client_max_body_size 64m;
	proxy_http_version 1.1;
	proxy_request_buffering off;
	proxy_max_temp_file_size 0;
	proxy_read_timeout 1h;
	grpc_read_timeout 1h;
	proxy_set_header Host $host;
	proxy_set_header Connection $to_upstream;
	proxy_set_header Upgrade $http_upgrade;
	proxy_set_header X-Forwarded-For $remote_addr;
	proxy_set_header X-Forwarded-Host $host;
	proxy_set_header X-Forwarded-Proto https;
	grpc_set_header Host $host;
	grpc_set_header X-Forwarded-For $remote_addr;
	grpc_set_header X-Forwarded-Host $host;
	grpc_set_header X-Forwarded-Proto https;
	map $http_upgrade $to_upstream { default upgrade; '' ''; }
	server {
		listen {{.Listen}} ssl http2 default_server backlog=4096;
		ssl_reject_handshake on;
	}
{{range $n, $t := .Tenants}}	upstream {{$t.Name}} {
		server {{$t.Upstream}};
		keepalive {{$.Kept}};
		keepalive_requests 1000000000;
	}
{{if $.Upstream.H2C}}	upstream {{$t.Name}}_grpc {
		server {{$t.Upstream}};
		keepalive {{$.Kept}};
		keepalive_requests 1000000000;
	}
{{end}}	server {
		listen {{$.Listen}} ssl http2;
		server_name {{$t.Host}};
		ssl_certificate "{{$t.Cert}}";
		ssl_certificate_key "{{$t.CertKey}}";
{{if eq $.Auth "key"}}		if ($http_authorization != "Bearer {{$t.Key}}") { return 401; }
{{end}}		location / { proxy_pass http://{{$t.Name}}; }
		location /events { proxy_pass http://{{$t.Name}}; proxy_buffering off; }
		location /mcp { proxy_pass http://{{$t.Name}}; proxy_buffering off; }
{{if $.Upstream.H2C}}		location {{$.GRPC}} { grpc_pass grpc://{{$t.Name}}_grpc; }
{{end}}	}
{{end}}}
`
