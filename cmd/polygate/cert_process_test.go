package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl makes certificates as people do who bring their own.
type openssl struct {
	t   *testing.T
	dir string
}

func newOpenSSL(t *testing.T) *openssl {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	o := &openssl{t, t.TempDir()}
	o.write("ca.cnf", `
[ca]
default_ca = d
[d]
dir = .
database = index.txt
new_certs_dir = .
serial = serial
certificate = root.pem
private_key = root.key
default_md = sha256
policy = p
copy_extensions = copy
unique_subject = no
[p]
commonName = supplied
`)
	o.write("index.txt", "")
	o.write("serial", "1000\n")
	o.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-days", "30", "-subj", "/CN=a CA")
	return o
}

func (o *openssl) write(name, content string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), []byte(content), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *openssl) run(args ...string) {
	o.t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = o.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// leaf makes name.pem and name.key for a host.
func (o *openssl) leaf(name, host, from, to string, newKey ...string) {
	o.t.Helper()
	o.run(append([]string{"req", "-new", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + host, "-addext", "subjectAltName=DNS:" + host}, newKey...)...)
	o.run("ca", "-batch", "-config", "ca.cnf", "-in", name+".csr", "-out", name+".pem", "-notext", "-startdate", from, "-enddate", to)
}

func (o *openssl) path(name string) string { return filepath.Join(o.dir, name) }

// TestProvidedCertificates brings certificates that were made with the openssl command, good and bad, by command, API and file:
// a bad one is refused with what is wrong and where, and changes nothing.
func TestProvidedCertificates(t *testing.T) {
	o := newOpenSSL(t)
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format("20060102150405Z") }
	ec := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}
	const host = "mcp.example.org"
	o.leaf("good", host, at(-time.Hour), at(240*time.Hour), ec...)
	o.leaf("next", host, at(-time.Hour), at(480*time.Hour), ec...)
	o.leaf("both", host+",DNS:mcp2.example.org", at(-time.Hour), at(240*time.Hour), ec...)
	o.leaf("rsa", host, at(-time.Hour), at(240*time.Hour), "-newkey", "rsa:2048")
	o.leaf("weak", host, at(-time.Hour), at(240*time.Hour), "-newkey", "rsa:1024")
	o.leaf("expired", host, at(-48*time.Hour), at(-time.Hour), ec...)
	o.leaf("future", host, at(24*time.Hour), at(48*time.Hour), ec...)
	o.leaf("other", "other.example.org", at(-time.Hour), at(240*time.Hour), ec...)
	o.run("ec", "-in", "good.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
	read := func(name string) string { return string(must(os.ReadFile(o.path(name)))) }
	o.write("chain.pem", read("good.pem")+read("root.pem"))
	o.write("next-chain.pem", read("next.pem")+read("root.pem"))
	o.write("reversed.pem", read("root.pem")+read("good.pem"))
	o.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
	o.write("keyed.pem", read("good.pem")+read("good.key"))

	g := newGateway(t, `
tenants:
  - {id: team-a, hosts: [mcp.example.org]}
  - {id: team-b}
`)
	g.start()
	serial := func() string { return g.serial(host) }
	imported := func(cert, key string) []string {
		return []string{"cert", "import", "--cert", o.path(cert), "--key=" + o.path(key), "--host", host}
	}
	g.ok(t, host, imported("chain.pem", "good.key")...)
	good := serial()
	if good != "1000" {
		t.Fatalf("the certificate that was brought is not served: %s", good)
	}
	for _, bad := range []struct{ cert, key, says string }{
		{"chain.pem", "next.key", "key"},
		{"expired.pem", "expired.key", "expired"},
		{"future.pem", "future.key", "not valid before"},
		{"other.pem", "other.key", "other.example.org"},
		{"weak.pem", "weak.key", "1024"},
		{"garbage.pem", "good.key", "certificate"},
		{"reversed.pem", "good.key", ""},
		{"chain.pem", "encrypted.key", "encrypted"},
		{"keyed.pem", "good.key", "private key"},
		{"good.key", "good.key", ""},
	} {
		stdout, stderr, code := g.cli(t, imported(bad.cert, bad.key)...)
		if code != 1 || !strings.Contains(stderr, bad.says) {
			t.Errorf("%s with %s: exit %d, want 1 and %q\n%s%s", bad.cert, bad.key, code, bad.says, stdout, stderr)
		}
		if now := serial(); now != good {
			t.Fatalf("%s: the certificate that is served changed to %s", bad.cert, now)
		}
		t.Logf("%s with %s: %s", bad.cert, bad.key, strings.TrimSpace(stderr))
	}
	g.ok(t, "", imported("rsa.pem", "rsa.key")...)
	if now := serial(); now == good {
		t.Error("an RSA certificate that was brought is not served")
	}
	g.showsCertificates(t, host)
	g.certificateFiles(t, o, host, serial)
	g.keysAreNowhere(t, o)
}

// showsCertificates uses the other commands.
func (g *gateway) showsCertificates(t *testing.T, host string) {
	t.Helper()
	g.ok(t, host, "cert", "list")
	g.ok(t, "RSA", "cert", "show", host)
	g.ok(t, "BEGIN CERTIFICATE", "cert", "show", host, "--chain")
	g.ok(t, host, "cert", "list", "--tenant", "team-a", "-o", "yaml")
	g.ok(t, "localhost", "cert", "list", "--platform")
	g.fails(t, "", "cert", "show", "team-b.localhost")
	g.ok(t, "", "cert", "renew", "team-a.localhost")
	g.ok(t, "BEGIN CERTIFICATE", "cert", "trust")
	g.ok(t, "", "cert", "revoke", host, "--yes")
	if leaf := must(x509.ParseCertificate(g.peer(t, host))); !strings.HasPrefix(leaf.Issuer.CommonName, "Polygate local authority") {
		t.Errorf("after a certificate was revoked, one of %s is served", leaf.Issuer)
	}
	g.ok(t, "local", "cert", "show", host)
	g.ok(t, "_polygate-challenge.new.example.org", "host", "add", "new.example.org")
	g.ok(t, "pending", "host", "list")
	g.ok(t, "new.example.org", "host", "list", "--tenant", "team-a")
	g.fails(t, "", "host", "verify", "new.example.org")
	g.ok(t, "", "host", "remove", "new.example.org")
}

// certificateFiles has another tool keep the certificate in files: it is taken in, renewed when they change, and a broken pair
// holds up nothing else.
func (g *gateway) certificateFiles(t *testing.T, o *openssl, host string, serial func() string) {
	t.Helper()
	copyFile := func(from, to string) { g.write(to, string(must(os.ReadFile(o.path(from))))) }
	copyFile("chain.pem", "tls/tls.crt")
	copyFile("good.key", "tls/tls.key")
	const file = `
tenants:
  - {id: team-a, hosts: [mcp.example.org], certificates: {files: [{cert_file: tls/tls.crt, key_file: tls/tls.key}]}}
  - {id: team-b%s}
`
	g.write("tenants.yaml", fmt.Sprintf(file, ""))
	await(t, 5*time.Second, "the files are taken in", func() error {
		if s := serial(); s != "1000" {
			return fmt.Errorf("serial %s\n%s", s, tail(g.log.String()))
		}
		return nil
	})
	copyFile("next.key", "tls/tls.key") // as a tool that writes one after the other
	time.Sleep(300 * time.Millisecond)
	if s := serial(); s != "1000" {
		t.Errorf("half a renewal changed what is served: %s", s)
	}
	g.ok(t, "the key does not belong to the leaf", "cert", "show", host) // its status says so
	g.write("tenants.yaml", fmt.Sprintf(file, ", display_name: Still applied"))
	await(t, 5*time.Second, "another tenant's change", func() error {
		got := g.operator(g.client(), "GET", "/api/v1/tenants/team-b", nil)
		if !strings.Contains(string(got.Body), "Still applied") {
			return fmt.Errorf("%d %s", got.Status, got.Body)
		}
		return nil
	})
	copyFile("next-chain.pem", "tls/tls.crt")
	await(t, 5*time.Second, "the renewed files are taken in", func() error {
		if s := serial(); s == "1000" {
			return fmt.Errorf("the old one is served\n%s", tail(g.log.String()))
		}
		return nil
	})
	if out := g.ok(t, "ready", "cert", "show", host); strings.Contains(out, "does not belong") {
		t.Errorf("after the files were mended the status says %s", out)
	}
	leaf := must(x509.ParseCertificate(g.peer(t, host)))
	if leaf.NotAfter.Before(time.Now().Add(400 * time.Hour)) {
		t.Errorf("it ends at %s", leaf.NotAfter)
	}
	g.otherFiles(t, o, serial)
}

// otherFiles declares other files in place of those before, in a folder that another tool makes later, and then another host
// that they name.
func (g *gateway) otherFiles(t *testing.T, o *openssl, serial func() string) {
	t.Helper()
	const file = `
tenants:
  - {id: team-a, hosts: [%s], certificates: {files: [{cert_file: %s.pem, key_file: %[2]s.key}]}}
  - {id: team-b}
`
	await := func(what, want string, got func() string) {
		t.Helper()
		await(t, lookAgain+5*time.Second, what, func() error {
			if s := got(); s != want {
				return fmt.Errorf("serial %s is served, want %s\n%s", s, want, tail(g.log.String()))
			}
			return nil
		})
	}
	copyPair := func(from, to string) {
		for _, ext := range []string{".key", ".pem"} {
			g.write(to+ext, string(must(os.ReadFile(o.path(from+ext)))))
		}
	}
	certSerial := func(name string) string {
		b, _ := pem.Decode(must(os.ReadFile(o.path(name + ".pem"))))
		return must(x509.ParseCertificate(b.Bytes)).SerialNumber.Text(16)
	}
	copyPair("rsa", "tls/rsa")
	g.write("tenants.yaml", fmt.Sprintf(file, "mcp.example.org", "tls/rsa"))
	await("other files are taken in", certSerial("rsa"), serial)
	g.write("tenants.yaml", fmt.Sprintf(file, "mcp.example.org", "live/mcp"))
	told := func() bool { return strings.Contains(g.log.String(), "live/mcp.pem") }
	eventually(t, "the files that are missing are told of", told)
	copyPair("both", "live/mcp")
	await("files of a folder that was not there are taken in", certSerial("both"), serial)
	g.write("tenants.yaml", fmt.Sprintf(file, "mcp.example.org, mcp2.example.org", "live/mcp"))
	await("a host that is declared later has them too", certSerial("both"), func() string { return g.serial("mcp2.example.org") })
	eventually(t, "a record names the host of a certificate that was taken in", func() bool {
		records := string(must(os.ReadFile(filepath.Join(g.dir, "data", "audit.jsonl"))))
		return strings.Contains(records, `"certificate.update","resource":"certificate/mcp2.example.org"`)
	})
}

// serial returns the serial number of the leaf that is served for a host, or what went wrong.
func (g *gateway) serial(host string) string {
	c, err := tls.Dial("tcp", g.public, &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) // to look at it
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

// peer returns the leaf that is served for a host.
func (g *gateway) peer(t *testing.T, host string) []byte {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", g.public, &tls.Config{ServerName: host, InsecureSkipVerify: true}) // to look at it
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Raw
}

// keysAreNowhere looks for the private keys that were brought where they must not be: logs, audit, and the store at rest.
func (g *gateway) keysAreNowhere(t *testing.T, o *openssl) {
	t.Helper()
	for _, name := range []string{"good.key", "rsa.key", "next.key"} {
		key := strings.Split(string(must(os.ReadFile(o.path(name)))), "\n")[1]
		places := map[string]string{"the log": g.log.String(), "the audit log": string(must(os.ReadFile(filepath.Join(g.dir, "data", "audit.jsonl"))))}
		_ = filepath.WalkDir(filepath.Join(g.dir, "data", "etcd"), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				places[path] = string(must(os.ReadFile(path)))
			}
			return nil
		})
		for place, content := range places {
			if strings.Contains(content, key) {
				t.Errorf("%s is in %s", name, place)
			}
		}
	}
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(g.ok(t, "", "cert", "list", "-o", "json")), &list); err != nil || len(list.Items) == 0 {
		t.Errorf("cert list -o json: %v", err)
	}
	for _, c := range list.Items {
		if _, ok := c["key"]; ok {
			t.Errorf("a list shows a key: %v", c)
		}
	}
}
