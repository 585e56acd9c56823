//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// finding is one line of testssl.sh's report.
type finding struct {
	ID, Severity, Finding string
}

// accepted are findings that stand for a choice of the demo: its authority is its own and is not to be asked whether it took a
// certificate back, its certificates live for a week, and HTTP itself is judged elsewhere.
func accepted(f finding) bool {
	switch f.ID {
	case "cert_chain_of_trust", "cert_chain_of_trust <cert#1>", "cert_expirationStatus", "cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL",
		"DNS_CAArecord", "OCSP_stapling", "certificate_transparency", "cert_notAfter", "engine_problem", "scanProblem":
		return true
	case "secure_renego": // asked without a server name, which is refused; the extension is looked for below
		return strings.Contains(f.Finding, "handshake didn't succeed")
	case "BREACH": // no compression is seen on /: there is nothing without a credential
		return strings.Contains(f.Finding, "no HTTP compression") || strings.Contains(f.Finding, "not vulnerable")
	}
	return false
}

// TestTestssl holds the public listener to what testssl.sh knows: protocols, ciphers, forward secrecy, server defaults and every
// vulnerability that it tries.
func TestTestssl(t *testing.T) {
	program, err := exec.LookPath("testssl")
	if err != nil {
		if program, err = exec.LookPath("testssl.sh"); err != nil {
			t.Fatal("testssl.sh is missing: install the Debian package testssl.sh")
		}
	}
	startDemo(t)
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), program, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "min", "--ip", "127.0.0.1",
		"--jsonfile", report, "-p", "-s", "-f", "-U", "-S", "team-a.localhost:8443")
	out, err := cmd.CombinedOutput() // its exit status counts findings
	b, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("no report: %v, %v\n%s", err, readErr, out)
	}
	var all []finding
	if err := json.Unmarshal(b, &all); err != nil || len(all) < 40 {
		t.Fatalf("a report of %d findings: %v\n%s", len(all), err, out)
	}
	seen := make(map[string]string)
	for _, f := range all {
		seen[f.ID] = f.Finding
		switch f.Severity {
		case "OK", "INFO", "LOW":
		default:
			if !accepted(f) {
				t.Errorf("%s: %s (%s)", f.ID, f.Finding, f.Severity)
			}
		}
	}
	for id, want := range map[string]string{
		"TLS1": "not offered", "TLS1_1": "not offered", "TLS1_2": "offered", "TLS1_3": "offered", "PFS": "offered",
	} {
		if got, ok := seen[id]; !ok || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	if got := seen["TLS_extensions"]; !strings.Contains(got, "renegotiation info") {
		t.Errorf("TLS_extensions: %q, want renegotiation info (RFC 5746)", got)
	}
}
