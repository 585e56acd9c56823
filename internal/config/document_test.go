package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/config"
)

func TestDecode(t *testing.T) {
	type form struct {
		Name string   `yaml:"name"`
		List []string `yaml:"list"`
	}
	for src, want := range map[string]string{
		"name: a\nlist: [x, y]\n": "",
		"":                        "",
		"nane: a\n":               `f.yaml:1:1: "nane" is unknown here: known are name, list`,
		"name: a\nname: b\n":      "f.yaml:2:1: ",
		"name: [a]\n":             "f.yaml:1:7: name: is a list where one value belongs",
		"name: &x a\n":            "f.yaml:1:7: ",
		"name: bad\n":             "f.yaml:1:7: of no use",
	} {
		var v form
		d := config.Decode("f.yaml", []byte(src), &v)
		if v.Name == "bad" {
			d.Wrong("name", "of no use")
		}
		if err := d.Err(); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", src, err, want)
		}
	}
}

func TestDecodeAuthenticator(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const good = "name: corp\ntype: oidc\ndefault_role: viewer\noidc: {issuer: \"https://login.example.com\", login: {client_id: p, client_secret_file: secret}}\n"
	a, err := config.DecodeAuthenticator("a.yaml", dir, []byte(good))
	if err != nil || a.Name != "corp" || a.DefaultRole.String() != "viewer" || a.OIDC.Login.ClientSecret != "s3cret" {
		t.Errorf("got %+v, %v", a, err)
	}
	for src, want := range map[string]string{
		"":                                 "a.yaml: is empty",
		"name: corp\n":                     "a.yaml:1:1: type is missing",
		"name: corp\ntype: mtls\nmtls: {}": "a.yaml:3:7: mtls.ca_file is missing",
		"name: corp\ntype: oidc\noidc: {issuer: \"http://x\"}\n":                                                           "a.yaml:3:16: ",
		"name: corp\ntype: oidc\noidc: {issuer: \"https://x.example\", login: {client_id: p, client_secret_file: none}}\n": "a.yaml:3:",
		"name: corp\ntype: oidc\noidc: {issuer: \"https://x.example\", client_secret: s3cret}\n":                           "a.yaml:3:37: ",
	} {
		if _, err := config.DecodeAuthenticator("a.yaml", dir, []byte(src)); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: got %v, want %q, and no secret", src, err, want)
		}
	}
}
