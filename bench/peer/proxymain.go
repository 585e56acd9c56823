package peer

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// relayBuffer is what bodies are copied by, and headerTimeout how long a request's header may take to come.
const (
	relayBuffer   = 32 << 10
	headerTimeout = 10 * time.Second
)

// ReverseProxyMain is what the process of ReverseProxy runs: it serves until SIGTERM. Its one argument is the file that ReverseProxy wrote.
func ReverseProxyMain(args []string) error {
	if len(args) != 1 {
		return errors.New("reverseproxy: it takes the file that polybench wrote for it, and nothing else")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	b, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reverseproxy: %w", err)
	}
	var job proxyJob
	if err := json.Unmarshal(b, &job); err != nil {
		return fmt.Errorf("reverseproxy: %s: %w", args[0], err)
	}
	if err := job.serve(ctx); err != nil {
		return fmt.Errorf("reverseproxy: %w", err)
	}
	return nil
}

// serve serves until ctx ends.
func (j *proxyJob) serve(ctx context.Context) error {
	handler, err := j.handler()
	if err != nil {
		return err
	}
	certs, err := j.certificates()
	if err != nil {
		return err
	}
	if j.Log != "" {
		f, err := os.OpenFile(j.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		handler = logged(handler, slog.New(slog.NewJSONHandler(f, nil)))
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: certs.get},
	}
	l, err := net.Listen("tcp", j.Listen)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// certificates are those of the hosts. A host that has none gets no handshake.
type certificates map[string]*tls.Certificate

func (j *proxyJob) certificates() (certificates, error) {
	all := make(certificates, len(j.Tenants))
	for _, t := range j.Tenants {
		c, err := tls.LoadX509KeyPair(t.Cert, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the certificate of %s: %w", t.Host, err)
		}
		all[t.Host] = &c
	}
	return all, nil
}

func (c certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c[strings.ToLower(hello.ServerName)]; cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
}

// route is a tenant's.
type route struct {
	url   *url.URL
	value string // of Authorization; "" = not checked
}

type routeKey struct{}

// handler relays a request to the upstream of its host.
func (j *proxyJob) handler() (http.Handler, error) {
	routes := make(map[string]*route, len(j.Tenants))
	for _, t := range j.Tenants {
		r := &route{url: &url.URL{Scheme: "http", Host: t.Upstream}}
		if j.Keys {
			if t.Key == "" {
				return nil, fmt.Errorf("%s has no key to check", t.Host)
			}
			r.value = "Bearer " + t.Key
		}
		routes[t.Host] = r
	}
	plain, grpc := relayBy(transport(false)), relayBy(transport(true))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := routes[hostOf(r)]
		switch {
		case to == nil:
			http.Error(w, "no such host", http.StatusMisdirectedRequest)
		case to.value != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(to.value)) != 1:
			http.Error(w, "no right credential", http.StatusUnauthorized)
		case j.H2C && strings.HasPrefix(r.URL.Path, grpcService):
			grpc.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, to)))
		default:
			plain.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, to)))
		}
	}), nil
}

// hostOf is the request's host without a port, in small letters.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.ToLower(host)
}

func relayBy(t http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(p.In.Context().Value(routeKey{}).(*route).url)
			p.SetXForwarded()
			p.Out.Host = p.In.Host
		},
		Transport: t, BufferPool: &buffers{},
	}
}

// transport speaks HTTP/1.1, or HTTP/2 without TLS, to upstreams.
func transport(h2c bool) *http.Transport {
	var p http.Protocols
	p.SetHTTP1(!h2c)
	p.SetUnencryptedHTTP2(h2c)
	return &http.Transport{
		Protocols: &p, DisableCompression: true, MaxIdleConns: 16 * keptConnections, MaxIdleConnsPerHost: keptConnections, IdleConnTimeout: time.Hour,
	}
}

// buffers is a pool of them.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, relayBuffer)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
