package backend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// certificates are read when their host is first asked for, and kept.
type certificates struct {
	dir string
	mu  sync.Mutex // guards byHost
	// byHost is bounded by the files of dir: only what was found is kept.
	byHost map[string]*tls.Certificate
}

func tlsConfig(dir string) *tls.Config {
	c := &certificates{dir: dir, byHost: map[string]*tls.Certificate{}}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
}

func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName)
	// The name becomes part of a path: nothing in it may lead out of the directory.
	if host == "" || strings.HasPrefix(host, ".") || strings.ContainsAny(host, `/\`) {
		return nil, errors.New("the hello names no tenant's host")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.byHost[host]; cert != nil {
		return cert, nil
	}
	base := filepath.Join(c.dir, host)
	cert, err := tls.LoadX509KeyPair(base+".pem", base+"-key.pem")
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", host, err)
	}
	c.byHost[host] = &cert
	return &cert, nil
}
