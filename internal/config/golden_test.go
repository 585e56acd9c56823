package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// TestMessages loads the bad samples in testdata/bad and compares what is told with the sample's last part. With UPDATE_GOLDEN=1
// that part is written anew.
func TestMessages(t *testing.T) {
	update := os.Getenv("UPDATE_GOLDEN") != ""
	samples, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, sample := range samples {
		t.Run(strings.TrimSuffix(filepath.Base(sample), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(sample)
			if err != nil {
				t.Fatal(err)
			}
			last := &ar.Files[len(ar.Files)-1]
			if last.Name != "want" {
				t.Fatal("the sample has no part named want")
			}
			got := messages(t, ar.Files[:len(ar.Files)-1])
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is told:\n%s", got)
			}
			if update {
				last.Data = []byte(got)
				if err := os.WriteFile(sample, txtar.Format(ar), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(last.Data); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// messages writes the files, loads the first, and returns what is wrong with it.
func messages(t *testing.T, files []txtar.File) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, f.Data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if first := filepath.Join(dir, files[0].Name); files[0].Name == "polygate.yaml" {
		_, err = config.LoadPlatform(first)
	} else {
		_, err = config.LoadTenants(first, testOptions())
	}
	if err == nil {
		t.Fatal("the sample is accepted")
	}
	return strings.ReplaceAll(err.Error(), dir+"/", "") + "\n"
}

func testOptions() config.Options {
	return config.Options{
		BaseDomain: "example.com",
		Reserved:   []string{"shared.example.org"},
		MaxServers: 50,
		DigestKey:  []byte("key"),
		Check: func(s config.Server) error {
			if s.Name == "REFUSED" {
				return fault.New(fault.Invalid, "name %q is refused by the catalog's own rules", s.Name)
			}
			return nil
		},
		Now:      func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Ceilings: tenant.Quotas{MaxServers: 100, PerKey: tenant.Share{Burst: 10}},
		CheckPolicy: func(b *policy.Bundle) error {
			var bad []policy.Problem
			for name, src := range b.Modules {
				if strings.Contains(src, "wrong") {
					bad = append(bad, policy.Problem{File: name, Line: 3, Column: 7, Message: "var wrong is unsafe"})
				}
			}
			if len(bad) > 0 {
				return fault.Wrap(fault.Invalid, &policy.CompileError{Problems: bad}, "the policy does not compile")
			}
			return nil
		},
		Seal: func(id tenant.ID, authenticator, plain string) (string, error) {
			if plain == "refused" {
				return "", errors.New("no key")
			}
			return fmt.Sprintf("sealed(%s,%s,%d)", id, authenticator, len(plain)), nil
		},
		Env: func(name string) (string, bool) { return "from " + name, name == "TOKEN" },
	}
}
