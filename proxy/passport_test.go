package proxy

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"
)

func goodPassport() passport {
	return passport{V: 1, From: "r1", To: "r0", Expires: time.Now().Add(passportLife).Unix(), Remote: "192.0.2.1:5000", SNI: hostA, TLS: tls.VersionTLS13}
}

func mustSign(t testing.TB, p passport, cert *tls.Certificate) string {
	t.Helper()
	text, err := p.sign(cert)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What a passport says arrives; what is not signed by the very certificate, or is not for the reader, does not.
func TestPassport(t *testing.T) {
	a := newAuthority(t)
	r1, r2 := a.issue("r1"), a.issue("r2")
	chain := a.issue("a client").Leaf
	for name, tc := range map[string]struct {
		edit func(*passport)
		by   *tls.Certificate // who signs; nil = r1
		bad  bool
	}{
		"good":              {},
		"a chain":           {edit: func(p *passport) { p.Chain = [][]byte{chain.Raw} }},
		"the next version":  {edit: func(p *passport) { p.V = 2 }},
		"two versions on":   {edit: func(p *passport) { p.V = 3 }, bad: true},
		"another's key":     {by: r2, bad: true},
		"from another":      {edit: func(p *passport) { p.From = "r2" }, bad: true},
		"from the reader":   {edit: func(p *passport) { p.From = "r0" }, bad: true},
		"for another":       {edit: func(p *passport) { p.To = "r2" }, bad: true},
		"for nobody":        {edit: func(p *passport) { p.To = "" }, bad: true},
		"no address":        {edit: func(p *passport) { p.Remote = "192.0.2.1" }, bad: true},
		"a name as address": {edit: func(p *passport) { p.Remote = "localhost:80" }, bad: true},
		"no server name":    {edit: func(p *passport) { p.SNI = "" }, bad: true},
		"upper case":        {edit: func(p *passport) { p.SNI = "A.example" }, bad: true},
		"TLS 1.1":           {edit: func(p *passport) { p.TLS = tls.VersionTLS11 }, bad: true},
		"a bad certificate": {edit: func(p *passport) { p.Chain = [][]byte{{1, 2, 3}} }, bad: true},
	} {
		p := goodPassport()
		if tc.edit != nil {
			tc.edit(&p)
		}
		by := r1
		if tc.by != nil {
			by = tc.by
		}
		v, err := readPassport(mustSign(t, p, by), r1.Leaf, "r1", "r0")
		if (err != nil) != tc.bad {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (v.state.ServerName != p.SNI || v.state.Version != p.TLS || v.Remote != p.Remote || len(v.state.PeerCertificates) != len(p.Chain)) {
			t.Errorf("%s: read %+v of %+v", name, v, p)
		}
	}
}

// No bit of a passport may be another.
func TestPassportTampered(t *testing.T) {
	cert := newAuthority(t).issue("r1")
	text := mustSign(t, goodPassport(), cert)
	for i := range text {
		for _, c := range []string{"A", "B", ".", "_", ""} {
			bad := text[:i] + c + text[i+1:]
			if bad == text {
				continue
			}
			if v, err := readPassport(bad, cert.Leaf, "r1", "r0"); err == nil {
				t.Fatalf("byte %d as %q is taken: %+v", i, c, v)
			}
		}
	}
	payload, _, _ := strings.Cut(text, ".")
	if _, err := readPassport(payload+".", cert.Leaf, "r1", "r0"); err == nil {
		t.Error("a passport without a signature is taken")
	}
}

// A passport is good from its time to its end, with what clocks may differ by, and never for longer than passports are made.
func TestPassportTimes(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, tc := range []struct {
		left time.Duration
		ok   bool
	}{
		{passportLife, true}, {0, true}, {-passportSkew, true}, {-passportSkew - time.Second, false},
		{passportLife + passportSkew, true}, {passportLife + passportSkew + time.Second, false}, {-time.Hour, false}, {time.Hour, false},
	} {
		p := passport{Expires: now.Add(tc.left).Unix()}
		if err := p.current(now); (err == nil) != tc.ok {
			t.Errorf("with %v left: %v", tc.left, err)
		}
	}
	if passportUse >= passportLife-passportSkew {
		t.Error("a passport is used for longer than a clock that runs behind takes it")
	}
}

// Ed25519 signs as well.
func TestPassportEd25519(t *testing.T) {
	a := newAuthority(t)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	text := mustSign(t, goodPassport(), &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	if _, err := readPassport(text, leaf, "r1", "r0"); err != nil {
		t.Error(err)
	}
}

// FuzzPassport: whatever is not signed is refused, and what is signed is read without a panic, to what it says.
func FuzzPassport(f *testing.F) {
	cert := newAuthority(f).issue("r1")
	good := mustSign(f, goodPassport(), cert)
	payload, _, _ := strings.Cut(good, ".")
	plain, _ := base64.RawURLEncoding.DecodeString(payload)
	f.Add(good, plain)
	f.Add("", []byte(`{}`))
	f.Add("a.b", []byte(`{"v":1,"from":"r1","to":"r0","remote":"[::1]:1","sni":"a","tls":772,"chain":["MA=="]}`))
	f.Fuzz(func(t *testing.T, text string, signed []byte) {
		if v, err := readPassport(text, cert.Leaf, "r1", "r0"); err == nil && text != good {
			t.Fatalf("%q is taken: %+v", text, v)
		}
		v, err := readPassport(seal(t, signed, cert), cert.Leaf, "r1", "r0")
		if err != nil {
			return
		}
		if v.From != "r1" || v.To != "r0" || v.state == nil || v.state.ServerName != v.SNI {
			t.Fatalf("%s reads as %+v", signed, v)
		}
		again, err := readPassport(mustSign(t, v.passport, cert), cert.Leaf, "r1", "r0")
		if err != nil || again.Remote != v.Remote || again.Expires != v.Expires {
			t.Fatalf("%+v, written and read: %+v, %v", v, again, err)
		}
	})
}

// seal signs any bytes as if they were a passport.
func seal(t testing.TB, payload []byte, cert *tls.Certificate) string {
	t.Helper()
	mark, err := signature(payload, cert)
	if err != nil {
		t.Fatal(err)
	}
	e := base64.RawURLEncoding
	return e.EncodeToString(payload) + "." + e.EncodeToString(mark)
}
