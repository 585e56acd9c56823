package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// maxPairFile bounds each file of a certificate.
const maxPairFile = 64 << 10

// CertificatePair is what a CertificateFile holds. It holds a key in the clear: keep it no longer than needed.
type CertificatePair struct {
	File  CertificateFile
	Chain []byte // PEM
	Key   []byte // PEM
}

// Wrong returns what is wrong with the pair as an error with the place at which the files are named.
func (p CertificatePair) Wrong(err error) *Error { return p.File.wrong(err) }

func (f CertificateFile) wrong(err error) *Error {
	c := collector{file: f.at.file}
	c.add(f.at.position, "cert_file %q, key_file %q: %s", clipPath(f.Cert), clipPath(f.Key), reason(err))
	return c.list[0]
}

// clipPath bounds a path at its beginning: its end tells more.
func clipPath(s string) string {
	if len(s) > 200 {
		return "…" + strings.ToValidUTF8(s[len(s)-200:], "")
	}
	return s
}

// ReadCertificates reads pairs of files. Those that cannot be read are told, the rest is returned. digest changes when any
// file does; it is "" if there is none.
func ReadCertificates(files []CertificateFile) (pairs []CertificatePair, digest string, errs Errors) {
	if len(files) == 0 {
		return nil, "", nil
	}
	sum := sha256.New()
	for _, f := range files {
		p, err := f.read()
		if err != nil {
			errs = append(errs, f.wrong(err))
			fmt.Fprintf(sum, "%q unread\n", f.Cert)
			continue
		}
		pairs = append(pairs, p)
		fmt.Fprintf(sum, "%d %d\n", len(p.Chain), len(p.Key))
		sum.Write(p.Chain)
		sum.Write(p.Key)
	}
	return pairs, "sha256:" + hex.EncodeToString(sum.Sum(nil)), errs
}

func (f CertificateFile) read() (CertificatePair, error) {
	p := CertificatePair{File: f}
	var err error
	if p.Chain, err = readFile(f.Cert, maxPairFile); err != nil {
		return p, errors.New("the first " + fileReason(err))
	}
	if p.Key, err = readFile(f.Key, maxPairFile); err != nil {
		return p, errors.New("the second " + fileReason(err))
	}
	return p, nil
}

// PairCheck says what is wrong with a certificate that is to be served on hosts, one of them at least, where "*.<domain>" is
// a wildcard; such as certs.CheckPair. Its error holds no part of the key.
type PairCheck = func(chain, key []byte, hosts []string) error

// CheckCertificates reads the pairs of files of all tenants and says what is wrong with them, which at a load is the tenant's
// own affair.
func (t *Tenants) CheckCertificates(baseDomain string, check PairCheck) Errors {
	c := &collector{file: t.Path}
	for i := range t.List {
		d := &t.List[i]
		hosts := append([]string{tenant.OwnHost(d.Record.ID, baseDomain)}, d.Record.Hosts...)
		c.take(checkPairs(d.CertificateFiles, hosts, check))
	}
	return c.list
}

// CheckCertificates reads the files of the platform's certificates, and those with secrets of its ACME account and DNS, and
// says what is wrong with them.
func (p *Platform) CheckCertificates(check PairCheck) Errors {
	hosts := append([]string{p.BaseDomain, "*." + p.BaseDomain}, p.SharedHosts...)
	c := &collector{}
	c.take(checkPairs(p.Certificates.Files, append(hosts, p.Admin.Hosts...), check))
	for _, f := range p.Certificates.secrets() {
		if err := f.read(); err != nil {
			c.add(position{}, "%s: %s", f.name, reason(err))
		}
	}
	return c.list
}

func checkPairs(files []CertificateFile, hosts []string, check PairCheck) Errors {
	var errs Errors
	for _, f := range files {
		p, err := f.read()
		if err == nil {
			err = check(p.Chain, p.Key, hosts)
		}
		if err != nil {
			errs = append(errs, f.wrong(err))
		}
	}
	return errs
}

// secretFile is a file that the settings of certificates name.
type secretFile struct {
	name string
	read func() error
}

func (c *Certificates) secrets() []secretFile {
	secret := func(name, path string) secretFile {
		return secretFile{"certificates.acme." + name, func() error { _, err := Secret(path); return err }}
	}
	roots := func(name, path string) secretFile {
		return secretFile{"certificates.acme." + name, func() error { _, err := RootsPEM(path); return err }}
	}
	a := &c.ACME
	list := []secretFile{secret("eab_key_file", a.EABKeyFile), roots("ca_file", a.CAFile)}
	switch a.DNS.Provider {
	case ProviderRFC2136:
		list = append(list, secret("dns.rfc2136.key_file", a.DNS.RFC2136.KeyFile))
	case ProviderWebhook:
		list = append(list, secret("dns.webhook.token_file", a.DNS.Webhook.TokenFile), roots("dns.webhook.ca_file", a.DNS.Webhook.CAFile))
	}
	return list
}

// Doubts are what tenants declare that cannot do what it seems meant for, given the platform's own settings; and their warnings.
func (t *Tenants) Doubts(p *Platform) Errors {
	c := &collector{file: t.Path}
	c.take(t.Warnings)
	for i := range t.List {
		d := &t.List[i]
		if s := d.Record.Certificates; s != nil && s.Source == tenant.SourceACME && p.Certificates.Source != string(tenant.SourceACME) && !p.challenge() {
			c.add(d.at, "tenant %q: certificates.source is acme, but no challenge can work: see certificates.acme.challenges and listen.plain in polygate.yaml", d.Record.ID)
		}
		if v := d.Record.TLS; v != nil && v.MinVersion != "" && v.MinVersion < p.TLS.MinVersion {
			c.add(d.at, "tenant %q: tls.min_version is %s, less than the platform's %s, which counts", d.Record.ID, v.MinVersion, p.TLS.MinVersion)
		}
	}
	return c.list
}
