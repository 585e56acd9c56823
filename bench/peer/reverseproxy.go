package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ReverseProxy is net/http/httputil.ReverseProxy in a process of its own: what Go's own server and client cost, a yardstick that needs
// no installation. command runs ReverseProxyMain; by default it is this program with the argument "reverseproxy".
func ReverseProxy(command []string, o ...Option) Peer { return &reverseProxy{command, choose(o)} }

type reverseProxy struct {
	command []string
	options
}

func (*reverseProxy) Name() string { return "httputil" }

func (*reverseProxy) Version(context.Context) (string, error) { return runtime.Version(), nil }

func (p *reverseProxy) Start(ctx context.Context, s *Site) (Running, error) {
	if s.Auth == JWTAuth {
		return nil, fmt.Errorf("httputil %w: it is a yardstick for relaying, not for checking tokens", ErrCannot)
	}
	command := p.command
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		command = []string{self, "reverseproxy"}
	}
	c := configured{name: "httputil", write: func(dir string, s *Site, port int) ([]string, error) {
		file := filepath.Join(dir, "httputil.json")
		text, err := json.Marshal(p.job(s, dir, port))
		if err != nil {
			return nil, err
		}
		return append(command[:len(command):len(command)], file), os.WriteFile(file, text, 0o600)
	}}
	return running(c.start(ctx, s, s.Dir))
}

// proxyJob is what the child is told, by a file.
type proxyJob struct {
	Listen  string      `json:"listen"`
	Log     string      `json:"log"` // "" = none
	H2C     bool        `json:"h2c"`
	Keys    bool        `json:"keys"` // are checked
	Tenants []proxyHost `json:"tenants"`
}

type proxyHost struct {
	Host     string `json:"host"`
	Cert     string `json:"cert"`
	KeyFile  string `json:"key_file"`
	Upstream string `json:"upstream"`
	Key      string `json:"key"`
}

func (p *reverseProxy) job(s *Site, dir string, port int) proxyJob {
	j := proxyJob{Listen: fmt.Sprintf("%s:%d", listenOn, port), H2C: s.Upstream.H2C, Keys: s.Auth == KeyAuth}
	if !p.noLog {
		j.Log = filepath.Join(dir, "access.log")
	}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		j.Tenants = append(j.Tenants, proxyHost{Host: t.Host, Cert: t.CertFile, KeyFile: t.KeyFile, Upstream: t.Upstream, Key: t.Key})
	}
	return j
}
