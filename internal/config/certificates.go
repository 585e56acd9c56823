package config

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/tenant"
)

// The names under which Options.Seal is asked to seal a tenant's secrets. No authenticator can have them: they hold a dot.
const (
	SecretDedicatedClient = "dedicated.client"  // the key of the certificate for its upstream
	SecretACME            = "certificates.acme" // the MAC key of its external account
)

// The YAML forms.
type passthroughForm struct {
	Upstream      string `yaml:"upstream"`
	ProxyProtocol bool   `yaml:"proxy_protocol"`
}

type tlsForm struct {
	MinVersion   string `yaml:"min_version"`
	ClientCAFile string `yaml:"client_ca_file"`
}

type certificatesForm struct {
	Source string            `yaml:"source"`
	ACME   *acmeForm         `yaml:"acme"`
	Files  []CertificateFile `yaml:"files"`
}

type acmeForm struct {
	Directory  string `yaml:"directory"`
	Email      string `yaml:"email"`
	CAFile     string `yaml:"ca_file"`
	Profile    string `yaml:"profile"`
	EABKeyID   string `yaml:"eab_key_id"`
	EABKeyFile string `yaml:"eab_key_file"`
}

// tlsOf reads how a tenant's connections are secured, on both sides, and adds it to its record.
func (r *tenantsReader) tlsOf(n ast.Node, f *tenantForm, t *Tenant) {
	if p := f.Passthrough; p != nil {
		t.Record.Passthrough = &tenant.Passthrough{Upstream: p.Upstream, ProxyProtocol: p.ProxyProtocol}
	}
	if f.Dedicated != nil {
		r.dedicatedTLS(n, f.Dedicated, t)
	}
	if f.TLS != nil && *f.TLS != (tlsForm{}) {
		t.Record.TLS = &tenant.TLS{MinVersion: f.TLS.MinVersion, ClientCA: r.pemRoots(n, "tls.client_ca_file", f.TLS.ClientCAFile)}
	}
	if f.Certificates != nil {
		r.certificatesOf(n, f.Certificates, t)
	}
}

func (r *tenantsReader) certificatesOf(n ast.Node, f *certificatesForm, t *Tenant) {
	c := tenant.Certificates{Source: tenant.CertificateSource(f.Source)}
	if f.ACME != nil {
		c.ACME = r.acmeOf(n, f.ACME, t.Record.ID)
	}
	if c != (tenant.Certificates{}) {
		t.Record.Certificates = &c
	}
	if most := tenant.MaxCertificateFiles; len(f.Files) > most {
		r.add(place(find(n, "certificates.files")), "certificates.files names %d pairs: at most %d are allowed", len(f.Files), most)
		return
	}
	for i, pair := range f.Files {
		at := place(find(n, fmt.Sprintf("certificates.files[%d]", i)))
		if pair.Cert == "" || pair.Key == "" {
			r.add(at, "certificates.files[%d]: cert_file and key_file belong together: set both", i)
			continue
		}
		t.CertificateFiles = append(t.CertificateFiles, CertificateFile{Cert: r.path(pair.Cert), Key: r.path(pair.Key), at: spot{r.file, at}})
	}
}

func (r *tenantsReader) acmeOf(n ast.Node, f *acmeForm, id tenant.ID) *tenant.ACME {
	a := &tenant.ACME{Directory: f.Directory, Email: f.Email, Profile: f.Profile, CA: r.pemRoots(n, "certificates.acme.ca_file", f.CAFile)}
	if (f.EABKeyID == "") != (f.EABKeyFile == "") {
		r.add(place(find(n, "certificates.acme")), "certificates.acme: eab_key_id and eab_key_file belong together: set both or neither")
		return a
	}
	if f.EABKeyFile == "" {
		return a
	}
	const field = "certificates.acme.eab_key_file"
	plain, err := r.fromFile(field, f.EABKeyFile)
	if err == nil && len(plain) > maxSecret {
		err = fmt.Errorf("%s has %d bytes: at most %d are allowed", field, len(plain), maxSecret)
	}
	if err == nil && !base64URL(plain) {
		err = fmt.Errorf("%s holds no base64url: write the key as the issuer gave it (RFC 8555 §7.3.4)", field)
	}
	if err != nil {
		r.add(place(find(n, field)), "%v", err)
		return a
	}
	if sealed := r.seal(n, field, id, SecretACME, plain); sealed != "" {
		a.EABKeyID, a.EABKey = f.EABKeyID, sealed
	}
	return a
}

// base64URL says whether s is base64url, or the other alphabet, in which some issuers show it.
func base64URL(s string) bool {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	_, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && s != ""
}

// seal seals a secret for the record. Without Options.Seal, and after an error, it is "".
func (r *tenantsReader) seal(n ast.Node, field string, id tenant.ID, name, plain string) string {
	if r.opt.Seal == nil {
		return ""
	}
	sealed, err := r.opt.Seal(id, name, plain)
	if err != nil {
		r.add(place(find(n, field)), "%s cannot be sealed: %s", field, reason(err))
		return ""
	}
	return sealed
}

// pemRoots reads the certificates of a field, if it is set, without whatever stands between them: the record is held in memory.
func (r *tenantsReader) pemRoots(n ast.Node, field, name string) string {
	text := r.roots(n, field, name)
	if text = onlyPEM(text); len(text) > tenant.MaxCAPEM {
		r.add(place(find(n, field)), "%s %q holds %d bytes of certificates: at most %d are allowed", field, clip(name), len(text), tenant.MaxCAPEM)
		return ""
	}
	return text
}

func onlyPEM(text string) string {
	var out []byte
	for b, rest := pem.Decode([]byte(text)); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes})...)
	}
	return string(out)
}

// dedicatedTLS reads how the connection to a tenant's own gateway is secured.
func (r *tenantsReader) dedicatedTLS(n ast.Node, f *dedicatedForm, t *Tenant) {
	d := t.Record.Dedicated
	if d.ServerName = f.ServerName; f.ServerName != "" && net.ParseIP(f.ServerName) == nil {
		if err := tenant.CheckHost(f.ServerName); err != nil {
			r.add(place(find(n, "dedicated.server_name")), "dedicated.server_name: %s", reason(err))
			return
		}
	}
	d.CA = r.pemRoots(n, "dedicated.ca_file", f.CAFile)
	switch {
	case f.ClientCertificate == "local":
		d.Client.Local = true
	case f.ClientCertificate != "" && f.ClientCertificate != "none":
		r.add(place(find(n, "dedicated.client_certificate")), "dedicated.client_certificate %q is unknown: use none or local, or name client_cert_file and client_key_file", clip(f.ClientCertificate))
		return
	}
	files := f.ClientCertFile != "" || f.ClientKeyFile != ""
	switch {
	case files && d.Client.Local:
		r.add(place(find(n, "dedicated.client_certificate")), "dedicated.client_certificate is local, and client_cert_file or client_key_file is set: choose one")
		return
	case files && (f.ClientCertFile == "" || f.ClientKeyFile == ""):
		r.add(place(find(n, "dedicated")), "dedicated: client_cert_file and client_key_file belong together: set both or neither")
		return
	case files:
		r.clientPair(n, f, t)
	}
	if files || d.Client.Local {
		r.warn(place(find(n, "dedicated")), "tenant %q: its upstream is shown a client certificate of the gateway. It must not take that for a user: every caller comes through the same connections, so each would be that user", clip(string(t.Record.ID)))
	}
}

// clientPair reads the certificate with which the gateway shows itself to an upstream. Its key goes into the record sealed.
func (r *tenantsReader) clientPair(n ast.Node, f *dedicatedForm, t *Tenant) {
	const cert, key = "dedicated.client_cert_file", "dedicated.client_key_file"
	chain := r.pemRoots(n, cert, f.ClientCertFile)
	plain, err := readFile(r.path(f.ClientKeyFile), maxValueFile)
	if err != nil {
		r.add(place(find(n, key)), "%s %q: %s", key, clip(f.ClientKeyFile), fileReason(err))
		return
	}
	if chain == "" { // which has been told
		return
	}
	pair, err := tls.X509KeyPair([]byte(chain), plain)
	if err != nil {
		r.add(place(find(n, key)), "%s %q is not the key of %s: %s", key, clip(f.ClientKeyFile), cert, pairReason(err))
		return
	}
	if end := pair.Leaf.NotAfter; r.now.After(end) { // its upstream's affair: it must not hold up other tenants
		r.warn(place(find(n, cert)), "tenant %q: %s %q expired at %s: renew it", clip(string(t.Record.ID)), cert, clip(f.ClientCertFile), end.UTC().Format(time.RFC3339))
	}
	if sealed := r.seal(n, key, t.Record.ID, SecretDedicatedClient, onlyPEM(string(plain))); sealed != "" {
		t.Record.Dedicated.Client = tenant.ClientCertificate{Chain: chain, Key: sealed}
	}
}

// pairReason returns what crypto/tls says of a pair, without its prefix.
func pairReason(err error) string {
	const prefix = "tls: "
	if s := err.Error(); len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):]
	}
	return err.Error()
}

// warn adds what is allowed, but that somebody should know.
func (r *tenantsReader) warn(at position, format string, args ...any) {
	c := collector{file: r.file, list: r.warnings}
	c.add(at, format, args...)
	r.warnings = c.list
}

// Default returns the platform's choice in the form of a tenant's. It reads the files that it names; the MAC key of the
// external account is in the clear.
func (c *Certificates) Default() (tenant.Certificates, error) {
	a := &c.ACME
	out := tenant.Certificates{Source: tenant.CertificateSource(c.Source), ACME: &tenant.ACME{
		Directory: a.Directory, Email: a.Email, Profile: a.Profile, EABKeyID: a.EABKeyID,
	}}
	var err, err2 error
	out.ACME.CA, err = RootsPEM(a.CAFile)
	if a.EABKeyFile != "" {
		out.ACME.EABKey, err2 = Secret(a.EABKeyFile)
	}
	if err := errors.Join(err, err2); err != nil {
		return tenant.Certificates{}, fmt.Errorf("certificates.acme: %w", err)
	}
	return out, nil
}

// RootsPEM reads a ca_file as text. It is "", which stands for the system's roots, if path is empty.
func RootsPEM(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := readRoots(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return onlyPEM(text), nil
}

// Secret reads a secret from a file that a setting names, without the newline at its end; "" if path is empty.
func Secret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	v := valueReader{}
	text, err := v.fromFile(filepath.Clean(path), path)
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%s has %d bytes: at most %d are allowed", path, len(text), maxSecret)
	}
	return text, err
}
