package config

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Server is one MCP server of a catalog file.
type Server struct {
	Name    string            // unique in the catalog
	URL     string            // http or https
	Headers map[string]string // sent to it; values are secrets
	Timeout time.Duration     // for its response header; 0 = the platform's
}

// The YAML forms of a catalog file.
type catalogForm struct {
	Servers []serverForm `yaml:"servers"`
}

type serverForm struct {
	Name    string        `yaml:"name"`
	URL     string        `yaml:"url"`
	Headers []headerForm  `yaml:"headers"`
	Timeout time.Duration `yaml:"timeout"`
}

type headerForm struct {
	Name      string `yaml:"name"`
	Value     string `yaml:"value"`
	ValueFile string `yaml:"value_file"`
	ValueEnv  string `yaml:"value_env"`
}

// catalogReader reads one catalog file.
type catalogReader struct {
	*collector
	valueReader
	opt Options
}

// catalog reads the catalog file of a tenant. n is the tenant's node.
func (r *tenantsReader) catalog(n ast.Node, f *tenantForm, t *Tenant) {
	path := r.path(f.CatalogFile)
	src, err := readFile(path, MaxFileBytes)
	if err != nil {
		r.add(place(find(n, "catalog_file")), "catalog_file %q: %s", clip(f.CatalogFile), fileReason(err))
		return
	}
	c := &catalogReader{collector: &collector{file: path}, valueReader: valueReader{dir: filepath.Dir(path), env: r.env}, opt: r.opt}
	t.Servers = c.read(src)
	if r.take(c.list); r.full() {
		return
	}
	r.files = append(r.files, c.files...)
	if most := r.maxServers(f); most > 0 && len(t.Servers) > most {
		r.add(place(find(n, "quotas.max_servers")), "quotas.max_servers is %d, but %s lists %d servers: raise the quota or shorten the list", most, f.CatalogFile, len(t.Servers))
	}
	t.CatalogDigest = digest(t.Servers, r.opt.DigestKey)
}

func (r *tenantsReader) maxServers(f *tenantForm) int {
	if f.Quotas.MaxServers > 0 {
		return f.Quotas.MaxServers
	}
	return r.opt.MaxServers
}

func (c *catalogReader) read(src []byte) []Server {
	root := parse(src, c.collector)
	var form catalogForm
	c.collector.decode(root, &form)
	c.require(root, "servers")
	if len(c.list) > 0 {
		return nil
	}
	nodes, _ := find(root, "servers").(*ast.SequenceNode)
	names := make(map[string]position, len(form.Servers))
	list := make([]Server, 0, len(form.Servers))
	for i := range form.Servers {
		if c.full() {
			break
		}
		list = append(list, c.server(nodes.Values[i], &form.Servers[i], names))
	}
	return list
}

func (c *catalogReader) server(n ast.Node, f *serverForm, names map[string]position) Server {
	found := len(c.list)
	at := place(find(n, "name"))
	if f.Name == "" {
		c.add(at, "name is missing: each server has one, which is a part of its path")
	} else if first, ok := names[f.Name]; ok {
		c.add(at, "server name %q is declared twice: the first is in line %d", clip(f.Name), first.Line)
	} else {
		names[f.Name] = at
	}
	if err := checkURL(f.URL); err != "" {
		c.add(place(find(n, "url")), "%s", err)
	}
	if f.Timeout < 0 {
		c.add(place(find(n, "timeout")), "timeout is negative: leave it out for the platform's default")
	}
	s := Server{Name: f.Name, URL: f.URL, Headers: c.headers(n, f), Timeout: f.Timeout}
	if c.opt.Check != nil && len(c.list) == found {
		if err := c.opt.Check(s); err != nil {
			msg := reason(err)
			field, _, _ := strings.Cut(msg, " ")
			c.add(place(find(n, strings.TrimSuffix(field, ":"))), "%s", msg)
		}
	}
	return s
}

// checkURL checks what no rule for servers can allow.
func checkURL(s string) string {
	if s == "" {
		return "url is missing: write the server's MCP endpoint, such as https://mcp.example.com/mcp"
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "url is not an http or https URL with a host"
	}
	if u.User != nil {
		return "url holds a user or password: put credentials into headers"
	}
	return ""
}

func (c *catalogReader) headers(n ast.Node, f *serverForm) map[string]string {
	if len(f.Headers) == 0 {
		return nil
	}
	h := make(map[string]string, len(f.Headers))
	seen := make(map[string]bool, len(f.Headers))
	for i := range f.Headers {
		form := &f.Headers[i]
		node := find(n, fmt.Sprintf("headers[%d]", i))
		at := place(find(node, "name"))
		switch fold := strings.ToLower(form.Name); {
		case form.Name == "":
			c.add(at, "the header's name is missing")
		case seen[fold]:
			c.add(at, "header %q is declared twice in this server", clip(form.Name))
		default:
			seen[fold] = true
		}
		value, err := c.headerValue(form)
		if err != nil {
			c.add(place(node), "header %q: %s", clip(form.Name), fileReason(err))
		}
		h[form.Name] = value
	}
	return h
}

// headerValue returns a header's value from the one place that the form names. Errors never hold it.
func (c *catalogReader) headerValue(f *headerForm) (string, error) {
	named := 0
	for _, s := range []string{f.Value, f.ValueFile, f.ValueEnv} {
		if s != "" {
			named++
		}
	}
	if named != 1 {
		return "", errors.New("set exactly one of value, value_file and value_env")
	}
	switch {
	case f.ValueFile != "":
		return c.fromFile("value_file", f.ValueFile)
	case f.ValueEnv != "":
		return c.fromEnv("value_env", f.ValueEnv)
	}
	return f.Value, nil
}

// digest returns a keyed hash of a catalog: without the key, a short secret in it could be found by trying.
func digest(servers []Server, key []byte) string {
	b, err := json.Marshal(servers) // canonical: struct fields in order, map keys sorted
	if err != nil {
		panic("config: " + err.Error()) // only for types that JSON does not know
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(b)
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}
