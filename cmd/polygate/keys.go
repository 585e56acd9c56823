package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// hasData says whether the embedded etcd has been used: its secrets are then sealed with a key that exists somewhere.
func (d *daemon) hasData() bool {
	_, err := os.Stat(d.etcdDir())
	return !errors.Is(err, fs.ErrNotExist)
}

// openKeys reads the key-encryption key and the operator token. With the embedded etcd both are made where they are
// missing; with an etcd of its own, which other replicas may share, a missing key-encryption key is an error.
func (d *daemon) openKeys(context.Context) error {
	kek, err := seal.LoadKeyring(d.cfg.KEKFile)
	if errors.Is(err, fs.ErrNotExist) && len(d.cfg.Etcd.Endpoints) == 0 && !d.hasData() {
		if err = os.MkdirAll(filepath.Dir(d.cfg.KEKFile), 0o700); err == nil {
			kek, err = seal.CreateKeyring(d.cfg.KEKFile)
		}
	}
	if err != nil {
		return d.noKey(err)
	}
	d.kek = kek
	token, err := loadToken(d.cfg.Admin.TokenFile)
	if err != nil {
		return fmt.Errorf("operator token: %w", err)
	}
	d.token = tenant.HashKey(token)
	return nil
}

// noKey says what to do where there is no key-encryption key, which is made for the first start of an embedded etcd alone.
func (d *daemon) noKey(err error) error {
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case len(d.cfg.Etcd.Endpoints) > 0:
		return fmt.Errorf("there is no key-encryption key at %[1]s: copy the kek_file of another replica there; for the very first one, make it: "+
			"(umask 077; head -c 32 /dev/urandom | base64 | sed 's/^/polygate-kek-v1:/' >'%[1]s')", d.cfg.KEKFile)
	}
	return fmt.Errorf("there is no key-encryption key at %s, and %s holds secrets that are sealed with one: put it back, or set kek_file to it", d.cfg.KEKFile, d.etcdDir())
}

// loadToken reads the operator token, and makes one of 256 random bits where there is no file.
func loadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createToken(path)
	}
	if err != nil {
		return "", err
	}
	if perm := info.Mode().Perm(); !seal.Private(info) {
		return "", fmt.Errorf("%s has mode %04o, so that others can read it: run chmod 600 '%s'", path, perm, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := string(bytes.TrimSpace(b))
	if len(token) < 32 {
		return "", fmt.Errorf("%s holds %d characters: a token has at least 32; remove the file to have one made", path, len(token))
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%s holds a character that no header may carry: a token is one word of printable ASCII", path)
	}
	return token, nil
}

func createToken(path string) (string, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	token := "pgo_" + base64.RawURLEncoding.EncodeToString(raw)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return token, writeFile(path, token+"\n")
}

// writeFile replaces a private file as a whole: a reader sees the old bytes or the new ones.
func writeFile(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it was renamed
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// kekCheck is what the registry holds of the key-encryption key, so that a replica with another one refuses to start
// instead of failing tenant by tenant: the platform's own secret, wrapped.
type kekCheck struct {
	V      int             `json:"v"`
	ID     string          `json:"id"` // of the key that wraps it
	Secret json.RawMessage `json:"secret"`
}

// kekCheckKey is where it is stored, under c/, and the context that it is bound to.
const kekCheckKey = "kek"

// checkKEK compares the keys of kek_file with the one that the registry's secrets are sealed with, and wraps with that one: a key
// that is new in the file wraps nothing before every replica has it.
func (d *daemon) checkKEK(ctx context.Context) error {
	if err := d.store.CheckRestored(ctx); err != nil {
		return plain(err)
	}
	check, err := readKEKCheck(ctx, d.store)
	if fault.Is(err, fault.NotFound) {
		if err = d.createKEKCheck(ctx); err == nil {
			return nil
		}
		if fault.Is(err, fault.Conflict) { // another replica was first
			check, err = readKEKCheck(ctx, d.store)
		}
	}
	if err != nil {
		return fmt.Errorf("check the key-encryption key: %w", err)
	}
	if d.secret, err = d.kek.Unwrap(check.Secret, kekCheckKey); err != nil {
		return fmt.Errorf("%s holds the key %s, but this registry's secrets are sealed with %s: restore that key file (or set kek_file to it)", d.cfg.KEKFile, strings.Join(d.kek.IDs(), ", "), check.ID)
	}
	if err := d.kek.Use(check.ID); err != nil {
		return err
	}
	return d.joinRekey(ctx)
}

// joinRekey takes part in a change of the key that is under way. It is called after this replica has registered: who carries the
// change out sees it, or it sees the change.
func (d *daemon) joinRekey(ctx context.Context) error {
	st, _, err := readRekey(ctx, d.store)
	if err != nil || st.Phase != phaseWrap {
		return err
	}
	if !d.kek.Has(st.To) {
		return fmt.Errorf("the key-encryption key is being changed to %s since %s, and %s does not hold that one: put its line there too (every replica needs both until polygate secret status says that it is done)",
			st.To, st.Started.Format(time.RFC3339), d.cfg.KEKFile)
	}
	return d.kek.Use(st.To)
}

func readKEKCheck(ctx context.Context, store *registry.Store) (check kekCheck, err error) {
	value, _, err := store.Platform().Get(ctx, kekCheckKey)
	if err == nil {
		err = json.Unmarshal(value, &check)
	}
	return check, err
}

// createKEKCheck makes the platform's secret.
func (d *daemon) createKEKCheck(ctx context.Context) error {
	secret := make([]byte, seal.KeySize)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	wrapped, err := d.kek.Wrap(secret, kekCheckKey)
	if err != nil {
		return err
	}
	value, err := json.Marshal(kekCheck{V: 1, ID: d.kek.ID(), Secret: wrapped})
	if err != nil {
		return err
	}
	d.secret = secret
	return d.store.Platform().Create(ctx, kekCheckKey, value)
}
