package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
)

// maker makes certificates that people could bring.
type maker struct {
	t   testing.TB
	now time.Time
	n   int64
}

// authority makes a CA under parent; nil = a root.
func (m *maker) authority(name string, parent *made) *made {
	key := m.ec(elliptic.P256())
	return m.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: m.now.Add(-time.Hour), NotAfter: m.now.Add(1000 * time.Hour),
	}, key, parent)
}

type made struct {
	*x509.Certificate
	key crypto.Signer
}

func (m *maker) ec(c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

func (m *maker) make(template *x509.Certificate, key crypto.Signer, parent *made) *made {
	m.n++
	template.SerialNumber = big.NewInt(m.n)
	by, from := key, template
	if parent != nil {
		by, from = parent.key, parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, from, key.Public(), by)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return &made{c, key}
}

func (m *maker) leaf(parent *made, key crypto.Signer, edit func(*x509.Certificate)) *made {
	c := &x509.Certificate{
		DNSNames: []string{"a.example"}, NotBefore: m.now.Add(-time.Hour), NotAfter: m.now.Add(100 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if edit != nil {
		edit(c)
	}
	return m.make(c, key, parent)
}

func chainOf(list ...*made) string {
	var b strings.Builder
	for _, c := range list {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

func (m *maker) pem(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestImportChecks: every way in which a pair can be bad has words of its own.
func TestImportChecks(t *testing.T) {
	m := &maker{t: t, now: time.Now()}
	root := m.authority("root", nil)
	ca := m.authority("intermediate", root)
	other := m.authority("other", nil)
	m.now = m.now.Add(-1000 * time.Hour)
	old := m.authority("old", root)
	m.now = m.now.Add(1000*time.Hour + time.Second)
	key := m.ec(elliptic.P256())
	good := m.leaf(ca, key, nil)
	keyPEM := m.pem(key)
	p224, small, huge := m.ec(elliptic.P224()), weakRSA(t, 1024), m.ec(elliptic.P521())
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey := weakRSA(t, 2048)
	tooMany := []*made{good, ca, root, root, root, root, root, root, root, root, root}
	ecParams := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	edit := func(f func(*x509.Certificate)) string { return chainOf(m.leaf(ca, key, f), ca) }
	for name, c := range map[string]struct{ chain, key, want string }{
		"good":                 {chainOf(good, ca), keyPEM, ""},
		"with the root":        {chainOf(good, ca, root), keyPEM, ""},
		"leaf alone":           {chainOf(good), keyPEM, ""},
		"by itself":            {chainOf(m.leaf(nil, key, nil)), keyPEM, ""},
		"comments around":      {"# my chain\n" + chainOf(good) + "\n\n" + chainOf(ca), keyPEM + "\n", ""},
		"Ed25519":              {chainOf(m.leaf(ca, ed, nil)), m.pem(ed), ""},
		"RSA 2048":             {chainOf(m.leaf(ca, rsaKey, nil)), m.pem(rsaKey), ""},
		"EC parameters first":  {chainOf(good), ecParams + keyPEM, ""},
		"empty chain":          {"", keyPEM, "the chain is not PEM"},
		"empty key":            {chainOf(good), "", "the key is not PEM"},
		"garbage":              {"hello", keyPEM, "the chain is not PEM"},
		"garbage in PEM":       {"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", keyPEM, "certificate 1 cannot be read"},
		"cut off":              {chainOf(good)[:200], keyPEM, "cut off"},
		"second cut off":       {chainOf(good) + chainOf(ca)[:200], keyPEM, "block 2 is cut off"},
		"key of another":       {chainOf(good, ca), m.pem(m.ec(elliptic.P256())), "does not belong to the leaf"},
		"wrong order":          {chainOf(ca, good), keyPEM, "wrong order: the key belongs to certificate 2"},
		"does not link":        {chainOf(good, root), keyPEM, "does not link: certificate 1"},
		"other issuer":         {chainOf(good, ca, other), keyPEM, "does not link: certificate 2"},
		"same name, other key": {chainOf(good, m.authority("intermediate", root)), keyPEM, "has not signed certificate 1"},
		"key in the chain":     {chainOf(good) + keyPEM, keyPEM, "block 2 is a private key"},
		"other block":          {chainOf(good) + ecParams, keyPEM, `is "EC PARAMETERS"`},
		"two keys":             {chainOf(good), keyPEM + keyPEM, "2 PEM blocks"},
		"interchanged":         {keyPEM, chainOf(good), "interchanged"},
		"encrypted":            {chainOf(good), "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n", "passphrase"},
		"encrypted, old form":  {chainOf(good), "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AA\n\naGVsbG8=\n-----END EC PRIVATE KEY-----\n", "passphrase"},
		"garbage key":          {chainOf(good), "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", "the key cannot be read"},
		"unknown key form":     {chainOf(good), "-----BEGIN DSA PRIVATE KEY-----\naGVsbG8=\n-----END DSA PRIVATE KEY-----\n", "DSA PRIVATE KEY"},
		"too large":            {strings.Repeat(chainOf(good), 200), keyPEM, "at most 65536"},
		"too many":             {chainOf(tooMany...), keyPEM, "11 certificates"},
		"expired":              {edit(func(c *x509.Certificate) { c.NotAfter = m.now.Add(-time.Minute) }), keyPEM, "expired on"},
		"not yet valid":        {edit(func(c *x509.Certificate) { c.NotBefore = m.now.Add(time.Minute) }), keyPEM, "not valid before"},
		"CA leaf":              {edit(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), keyPEM, "is an authority's"},
		"no name":              {edit(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "a.example" }), keyPEM, "no DNS name"},
		"for clients":          {edit(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), keyPEM, "not for servers"},
		"P-224":                {chainOf(m.leaf(ca, p224, nil)), m.pem(p224), "P-224"},
		"P-521":                {chainOf(m.leaf(ca, huge, nil)), m.pem(huge), "P-521"},
		"RSA 1024":             {chainOf(good), m.pem(small), "RSA of 1024 bits"},
		"intermediate expired": {chainOf(m.leaf(old, key, nil), old), keyPEM, "certificate 2 (CN=old) is valid from"},
	} {
		_, err := parsePair([]byte(c.chain), []byte(c.key), m.now)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if err := checkHost(good.Certificate, "b.example"); err == nil || !strings.Contains(err.Error(), "for a.example, not for b.example") {
		t.Errorf("wrong host: %v", err)
	}
}

// TestHugeKeysCostNothing: no signature is verified by a key that is refused anyway. One of 400,000 bits fits into a chain, and
// takes 15 s.
func TestHugeKeysCostNothing(t *testing.T) {
	m := &maker{t: t, now: time.Now()}
	root := m.authority("root", nil)
	n := new(big.Int).Lsh(big.NewInt(1), 65536)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "huge"}, IsCA: true, BasicConstraintsValid: true, NotBefore: m.now.Add(-time.Hour), NotAfter: m.now.Add(time.Hour),
	}, root.Certificate, &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1}, root.key)
	if err != nil {
		t.Fatal(err)
	}
	huge, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	signer := *huge
	signer.PublicKey = root.key.Public()
	leaf := m.leaf(&made{&signer, root.key}, m.ec(elliptic.P256()), nil)
	_, err = parsePair([]byte(chainOf(leaf, &made{huge, nil})), []byte(m.pem(leaf.key)), m.now)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "RSA of 65537 bits") {
		t.Errorf("a chain with a huge key: %v", err)
	}
	long := m.pem(leaf.key) + strings.Repeat(" ", maxKeyPEM)
	if _, err = parsePair([]byte(chainOf(leaf)), []byte(long), m.now); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "the key is") {
		t.Errorf("a long key: %v", err)
	}
}

// weakRSA makes a key that the library makes no more, or one that is good enough.
func weakRSA(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestImportOfOpenSSL: what that program makes, in its forms of keys.
func TestImportOfOpenSSL(t *testing.T) {
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl here")
	}
	for name, c := range map[string]struct {
		args, key string // of the certificate; of what is made of the key
		want      string
	}{
		"RSA":              {"-newkey rsa:2048 -noenc -sha256", "", ""},
		"RSA, PKCS #1":     {"-newkey rsa:2048 -noenc -sha256", "rsa -in k.pem -traditional", ""},
		"EC, SEC 1":        {"-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -sha256", "ec -in k.pem", ""},
		"Ed25519":          {"-newkey ed25519 -noenc", "", ""},
		"SHA-1":            {"-newkey rsa:2048 -noenc -sha1", "", "weak"},
		"secp256k1":        {"-newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -noenc -sha256", "", "cannot be read"},
		"with passphrase":  {"-newkey rsa:2048 -passout pass:secret -sha256", "", "passphrase"},
		"the old way":      {"-newkey rsa:2048 -noenc -sha256", "rsa -in k.pem -traditional -aes128 -passout pass:secret", "passphrase"},
		"expired (0 days)": {"-newkey rsa:2048 -noenc -sha256 -days 0", "", "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(args ...string) []byte {
				cmd := exec.CommandContext(t.Context(), program, args...)
				cmd.Dir = dir
				out, err := cmd.Output()
				if err != nil {
					t.Skipf("this openssl does not: %v", err)
				}
				return out
			}
			run(append([]string{"req", "-x509", "-days", "30", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:a.example",
				"-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "k.pem", "-out", "c.pem"}, strings.Fields(c.args)...)...)
			chain, _ := os.ReadFile(filepath.Join(dir, "c.pem"))
			key, _ := os.ReadFile(filepath.Join(dir, "k.pem"))
			if c.key != "" {
				key = run(strings.Fields(c.key)...)
			}
			_, err := parsePair(chain, key, time.Now().Add(time.Minute))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzParsePair: whatever people bring, there is an answer and no panic, and what passes can be served.
func FuzzParsePair(f *testing.F) {
	m := &maker{t: f, now: time.Now()}
	key := m.ec(elliptic.P256())
	f.Add([]byte(chainOf(m.leaf(nil, key, nil))), []byte(m.pem(key)))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte("-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----"))
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		p, err := parsePair(chain, key, m.now)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%v is no fault of the caller's", err)
			}
			return
		}
		if _, err := tls.X509KeyPair(encodeChain(p.chain), key); err != nil {
			t.Errorf("passes, and the library refuses it: %v", err)
		}
	})
}

// TestLongNamesAreCutBetweenCharacters: the answer of an import that was stored could not be written otherwise, since JSON
// holds nothing but UTF-8.
func TestLongNamesAreCutBetweenCharacters(t *testing.T) {
	m := &maker{t: t, now: time.Now()}
	key := m.ec(elliptic.P256())
	for _, lead := range []string{"", "x"} { // é has two bytes: one of the bounds is within one
		ca := m.authority(lead+strings.Repeat("é", 300), nil)
		given, err := parsePair([]byte(chainOf(m.leaf(ca, key, nil), ca)), []byte(m.pem(key)), m.now)
		if err != nil {
			t.Fatal(err)
		}
		var h keep.Host
		if err := given.fill(&h); err != nil || !utf8.ValidString(h.Issuer) || len(h.Issuer) < 511 || len(h.Issuer) > 512 {
			t.Errorf("issuer of %d bytes, valid UTF-8: %t, %v", len(h.Issuer), utf8.ValidString(h.Issuer), err)
		}
		if _, err = parsePair([]byte(chainOf(ca)), []byte(m.pem(ca.key)), m.now); err == nil || !utf8.ValidString(err.Error()) {
			t.Errorf("an authority's: %q", err)
		}
	}
}
