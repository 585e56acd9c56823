package seal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// MaxKeys is how many key-encryption keys a file holds at most: the one in force, and those of before and after.
const MaxKeys = 8

// Keyring is the key-encryption keys of one file, one a line. One of them wraps, all of them unwrap, so that a platform goes
// from one key to the next without a stop. The first line is the key that is wanted in force; Use says which one is: as long
// as not every replica has the new key, nobody may wrap with it. It is safe for concurrent use.
type Keyring struct {
	path   string     // "" = made from keys, and never read again
	change sync.Mutex // one Use or Reload at a time
	state  atomic.Pointer[ring]
}

// ring is the state of a Keyring. It is immutable.
type ring struct {
	keys []*KEK // in the order of the file
	wrap *KEK
}

func (r *ring) find(id string) *KEK {
	for _, k := range r.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

func (r *ring) ids() []string {
	ids := make([]string, len(r.keys))
	for i, k := range r.keys {
		ids[i] = k.id
	}
	return ids
}

// NewKeyring returns the ring of these keys, of which the first wraps.
func NewKeyring(first *KEK, more ...*KEK) *Keyring {
	k := new(Keyring)
	k.state.Store(&ring{append([]*KEK{first}, more...), first})
	return k
}

// LoadKeyring reads the keys from a file that only its owner can read. A missing file is fs.ErrNotExist.
func LoadKeyring(path string) (*Keyring, error) {
	keys, err := loadKeys(path)
	if err != nil {
		return nil, err
	}
	k := NewKeyring(keys[0], keys[1:]...)
	k.path = path
	return k, nil
}

// CreateKeyring makes a file with one new key, as CreateKEK does.
func CreateKeyring(path string) (*Keyring, error) {
	kek, err := CreateKEK(path)
	if err != nil {
		return nil, err
	}
	k := NewKeyring(kek)
	k.path = path
	return k, nil
}

func loadKeys(path string) ([]*KEK, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key %s: %w", path, err)
	}
	return keys, nil
}

// parseKeys reads the lines of a file. Errors never hold any of them.
func parseKeys(b []byte) ([]*KEK, error) {
	if len(b) > maxKEKFile {
		return nil, fmt.Errorf("is over %d bytes: want at most %d lines", maxKEKFile, MaxKeys)
	}
	var keys []*KEK
	for line := range strings.Lines(string(b)) {
		key, err := parseKEK([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("line %d %w", len(keys)+1, err)
		}
		k := newKEK(key)
		if slices.ContainsFunc(keys, func(o *KEK) bool { return o.id == k.id }) {
			return nil, fmt.Errorf("line %d holds the key %s a second time: remove it", len(keys)+1, k.id)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 || len(keys) > MaxKeys {
		return nil, fmt.Errorf("holds %d keys: want 1 to %d, each on a line %s<base64 of %d bytes>", len(keys), MaxKeys, kekPrefix, KeySize)
	}
	return keys, nil
}

// AddKey puts a new key before those of a file, which is replaced as a whole, and returns the key's id. The key wraps
// nothing until the platform is rekeyed.
func AddKey(path string) (id string, err error) {
	keys, err := loadKeys(path)
	if err != nil {
		return "", err
	}
	if len(keys) == MaxKeys {
		return "", fmt.Errorf("key-encryption key %s: holds %d keys, and more are not allowed: remove those that wrap nothing any more", path, len(keys))
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("key-encryption key: %w", err)
	}
	key, line := drawKEK()
	if err := replaceFile(path, append([]byte(line), old...)); err != nil {
		return "", fmt.Errorf("add a key-encryption key: %w", err)
	}
	return newKEK(key).id, nil
}

// replaceFile replaces a file as a whole, and on disk, with one that its owner alone can read.
func replaceFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".kek-*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	_, werr := tmp.Write(b)
	err = errors.Join(werr, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncDir(dir)
}

// ID names the key that wraps.
func (k *Keyring) ID() string { return k.state.Load().wrap.id }

// First names the key on the file's first line, which is the one that is wanted in force.
func (k *Keyring) First() string { return k.state.Load().keys[0].id }

// IDs names all keys, in the order of the file.
func (k *Keyring) IDs() []string { return k.state.Load().ids() }

// Has says whether the key with this id is there.
func (k *Keyring) Has(id string) bool { return k.state.Load().find(id) != nil }

// Use makes the key with this id the one that wraps.
func (k *Keyring) Use(id string) error {
	k.change.Lock()
	defer k.change.Unlock()
	s := k.state.Load()
	key := s.find(id)
	if key == nil {
		return &WrongKEKError{Sealed: id, Have: strings.Join(s.ids(), ", ")}
	}
	k.state.Store(&ring{s.keys, key})
	return nil
}

// Reload reads the file again. The key that wraps has to be in it still, else nothing changes. A ring that was made from
// keys stays as it is.
func (k *Keyring) Reload() error {
	if k.path == "" {
		return nil
	}
	k.change.Lock()
	defer k.change.Unlock()
	keys, err := loadKeys(k.path)
	if err != nil {
		return err
	}
	next := &ring{keys: keys}
	if next.wrap = next.find(k.ID()); next.wrap == nil {
		return fmt.Errorf("key-encryption key %s: the key %s is gone from it, and is in use: put its line back", k.path, k.ID())
	}
	k.state.Store(next)
	return nil
}

// Wrap implements Wrapper.
func (k *Keyring) Wrap(secret []byte, context ...string) ([]byte, error) {
	return k.state.Load().wrap.Wrap(secret, context...)
}

// Unwrap implements Wrapper, with whichever key the envelope names.
func (k *Keyring) Unwrap(envelope []byte, context ...string) ([]byte, error) {
	return k.state.Load().unwrap(envelope, context)
}

func (r *ring) unwrap(envelope []byte, context []string) ([]byte, error) {
	id, ok := KeyOf(envelope)
	if !ok {
		return nil, ErrOpen
	}
	key := r.find(id)
	if key == nil {
		return nil, &WrongKEKError{Sealed: id, Have: strings.Join(r.ids(), ", ")}
	}
	return key.Unwrap(envelope, context...)
}

// Rewrap returns an envelope of the same secret by the key that wraps now; changed is false if it is that already.
func (k *Keyring) Rewrap(envelope []byte, context ...string) (next []byte, changed bool, err error) {
	s := k.state.Load()
	secret, err := s.unwrap(envelope, context)
	if err != nil {
		return nil, false, err
	}
	if id, _ := KeyOf(envelope); id == s.wrap.id {
		return envelope, false, nil
	}
	next, err = s.wrap.Wrap(secret, context...)
	return next, err == nil, err
}

// String keeps the keys out of logs and messages, as do GoString and LogValue.
func (k *Keyring) String() string {
	s := k.state.Load()
	return "seal.Keyring(" + s.wrap.id + " of " + strings.Join(s.ids(), ", ") + ")"
}

// GoString implements fmt.GoStringer.
func (k *Keyring) GoString() string { return k.String() }

// LogValue implements slog.LogValuer.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue(k.String()) }
