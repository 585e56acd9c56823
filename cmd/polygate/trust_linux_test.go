package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smallstep/truststore"
)

// TestSystemTrust puts a root into a trust store of the system's form and takes it out. The name that is in the certificate
// does not choose the file.
func TestSystemTrust(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	for _, name := range []string{"tee", "rm", "touch", "false"} { // and no sudo
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	file, command := truststore.SystemTrustFilename, truststore.SystemTrustCommand
	t.Cleanup(func() { truststore.SystemTrustFilename, truststore.SystemTrustCommand = file, command })
	truststore.SystemTrustFilename, truststore.SystemTrustCommand = filepath.Join(dir, "%s.crt"), []string{"touch", filepath.Join(dir, "updated")}

	text, _ := testPEM(t, func(c *x509.Certificate) { c.IsCA, c.Subject.CommonName = true, "../../etc/passwd" })
	b, _ := pem.Decode([]byte(text))
	root, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := (systemTrust{}).Install(root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "polygate-77.crt")); err != nil || string(got) != text {
		t.Errorf("installed %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "updated")); err != nil {
		t.Errorf("the system is not told: %v", err)
	}
	if err := (systemTrust{}).Uninstall(root); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.crt")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	truststore.SystemTrustCommand = []string{"false"}
	if err := (systemTrust{}).Install(root); err == nil || !strings.Contains(err.Error(), "administrator") {
		t.Errorf("a command that fails: %v", err)
	}
	truststore.SystemTrustCommand = nil
	if err := (systemTrust{}).Install(root); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("an unknown system: %v", err)
	}
}
