package main

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeTrust is a machine's trust store.
type fakeTrust struct {
	roots []string
	fails error
}

func (f *fakeTrust) Install(root *x509.Certificate) error {
	f.roots = append(f.roots, root.Subject.CommonName)
	return f.fails
}

func (f *fakeTrust) Uninstall(root *x509.Certificate) error {
	f.roots = slices.DeleteFunc(f.roots, func(s string) bool { return s == root.Subject.CommonName })
	return f.fails
}

// TestCertTrust: the root is found where it lies, printed alone on stdout, and put into the trust store and out of it.
func TestCertTrust(t *testing.T) {
	rec := newRecorder(t, func(request) (int, any) { return http.StatusOK, nil })
	rec.settle(t)
	text, _ := testPEM(t, func(c *x509.Certificate) { c.IsCA = true })
	dir := put(t, map[string]string{"ca.pem": "words before it\n" + text, "polygate.yaml": "base_domain: example.com\ndata_dir: .\n", "elsewhere.yaml": "base_domain: example.com\ndata_dir: data\n"})
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	store := &fakeTrust{}
	trust := func(args ...string) (string, string, error) {
		s := newScoped(true)
		cmd := commandGroup("cert", "x", "x", newTrustCommand(&s.settings, store))
		s.bind(cmd)
		return carryOut(t.Context(), cmd, append([]string{"trust"}, args...)...)
	}
	if _, _, err := trust(); err == nil {
		t.Error("a root is found where there is none")
	}
	t.Setenv("POLYGATE_CA", filepath.Join(dir, "ca.pem"))
	if out, _, err := trust(); err != nil || out != text {
		t.Errorf("of POLYGATE_CA: %v\n%s", err, out)
	}
	t.Setenv("POLYGATE_CA", "")
	t.Chdir(dir)
	for _, args := range [][]string{{}, {"--root", "ca.pem"}, {"--config", "polygate.yaml"}} {
		if out, stderr, err := trust(args...); err != nil || out != text || !strings.Contains(stderr, "CN=a test, until ") {
			t.Errorf("%v: %v\n%s%s", args, err, out, stderr)
		}
	}
	if _, _, err := trust("--config", "elsewhere.yaml"); err == nil || !strings.Contains(err.Error(), "data/ca.pem") {
		t.Errorf("before the first start: %v", err)
	}
	if out, _, err := trust("-o", "json"); err != nil || !strings.Contains(out, `"fingerprint"`) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, stderr, err := trust("--install"); err != nil || len(store.roots) != 1 || !strings.Contains(stderr, "is trusted on this machine now") {
		t.Errorf("%v, %v\n%s", err, store.roots, stderr)
	}
	if _, stderr, err := trust("--uninstall"); err != nil || len(store.roots) != 0 || !strings.Contains(stderr, "not trusted on this machine any more") {
		t.Errorf("%v, %v\n%s", err, store.roots, stderr)
	}
	store.fails = fmt.Errorf("no rights")
	if _, stderr, err := trust("--install"); err == nil || strings.Contains(stderr, "trusted") {
		t.Errorf("a failure is told as %v\n%s", err, stderr)
	}
}
