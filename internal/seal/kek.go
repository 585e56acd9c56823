package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// kekPrefix begins the one line of a KEK file.
const kekPrefix = "polygate-kek-v1:"

// maxKEKFile bounds what is read of a KEK file.
const maxKEKFile = 1024

// KEK is the key-encryption key: it wraps data keys and a few other small secrets of the platform. It is immutable, and
// safe for concurrent use.
type KEK struct {
	id   string
	aead cipher.AEAD
}

// envelope is a wrapped secret. Its JSON is canonical: Unwrap refuses any other spelling of it.
type envelope struct {
	V          int    `json:"v"`
	KEK        string `json:"kek"` // ID of the key that wrapped it
	Nonce      []byte `json:"n"`
	Ciphertext []byte `json:"c"`
}

// WrongKEKError says that an envelope was made with another key-encryption key.
type WrongKEKError struct {
	Sealed string // the id in the envelope
	Have   string // the id of the key that was asked to open it
}

// Error implements error.
func (e *WrongKEKError) Error() string {
	return fmt.Sprintf("seal: sealed with another key-encryption key (id %s, this one is %s): restore the kek_file that belongs to this data", e.Sealed, e.Have)
}

func newKEK(key []byte) *KEK {
	sum := sha256.Sum256(append([]byte("polygate/kek-id/v1\x00"), key...))
	return &KEK{id: hex.EncodeToString(sum[:6]), aead: newAEAD(key)}
}

// readKeyFile reads a file of keys, which only its owner may be able to read.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	defer f.Close()
	if err := checkMode(f, path); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKEKFile+1))
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	return b, nil
}

// LoadKEK reads the key-encryption key from a file that only its owner can read. A missing file is fs.ErrNotExist.
func LoadKEK(path string) (*KEK, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKEK(b)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key %s: %w", path, err)
	}
	return newKEK(key), nil
}

// checkMode refuses a file that is not Private: whoever reads it reads every sealed secret.
func checkMode(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("key-encryption key: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("key-encryption key %s is not a regular file", path)
	}
	if perm := st.Mode().Perm(); !Private(st) {
		return fmt.Errorf("key-encryption key %s has mode %04o, so that others can read it: run chmod 600 '%s'", path, perm, path)
	}
	return nil
}

// parseKEK reads the file's one line. Errors never hold any of it.
func parseKEK(b []byte) ([]byte, error) {
	line := strings.TrimSuffix(string(b), "\n")
	text, ok := strings.CutPrefix(line, kekPrefix)
	if !ok || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("is not one line %s<base64 of %d bytes>", kekPrefix, KeySize)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("is damaged: want %s<base64 of %d bytes>", kekPrefix, KeySize)
	}
	return key, nil
}

// CreateKEK makes a new key and writes it to path, readable by its owner alone. It never overwrites: if the file exists
// the error is fs.ErrExist. The file appears whole and on disk, or not at all, since a key that a crash could take back
// would take with it everything that was sealed meanwhile.
func CreateKEK(path string) (*KEK, error) {
	key, line := drawKEK()
	if err := createFile(path, []byte(line)); err != nil {
		return nil, fmt.Errorf("make key-encryption key: %w", err)
	}
	return newKEK(key), nil
}

// drawKEK returns a new key and the line of a file that holds it.
func drawKEK() (key []byte, line string) {
	key = make([]byte, KeySize)
	rand.Read(key) // never fails (crypto/rand)
	return key, kekPrefix + base64.StdEncoding.EncodeToString(key) + "\n"
}

func createFile(path string, b []byte) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".kek-*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.Remove(tmp.Name()))
	}()
	_, werr := tmp.Write(b)
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil { // fails if path exists, unlike a rename
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ID names the key: a short hash that tells nothing of it.
func (k *KEK) ID() string { return k.id }

// Wrap implements Wrapper.
func (k *KEK) Wrap(secret []byte, context ...string) ([]byte, error) {
	sealed := k.aead.Seal(nil, nil, secret, k.bind(context))
	b, err := json.Marshal(envelope{V: int(version), KEK: k.id, Nonce: sealed[:nonceSize], Ciphertext: sealed[nonceSize:]})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("seal: a secret of %d bytes is too large for an envelope", len(secret))
	}
	return b, nil
}

// Unwrap implements Wrapper.
func (k *KEK) Unwrap(b []byte, context ...string) ([]byte, error) {
	e, ok := parseEnvelope(b)
	if !ok {
		return nil, ErrOpen
	}
	if e.KEK != k.id {
		return nil, &WrongKEKError{Sealed: e.KEK, Have: k.id}
	}
	secret, err := k.aead.Open(nil, nil, append(e.Nonce, e.Ciphertext...), k.bind(context))
	if err != nil {
		return nil, ErrOpen
	}
	return secret, nil
}

// parseEnvelope reads an envelope, and refuses every spelling but the one that Wrap writes: JSON readers let other cases
// of names, duplicates and white space pass.
func parseEnvelope(b []byte) (*envelope, bool) {
	var e envelope
	if len(b) > MaxEnvelope || json.Unmarshal(b, &e) != nil {
		return nil, false
	}
	if e.V != int(version) || len(e.Nonce) != nonceSize || !validID(e.KEK) {
		return nil, false
	}
	again, err := json.Marshal(e)
	if err != nil || !bytes.Equal(again, b) {
		return nil, false
	}
	return &e, true
}

// validID says whether s has the form of a KEK's id: it is shown in an error, and must not carry anything else there.
func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 6 && s == strings.ToLower(s)
}

func (k *KEK) bind(context []string) []byte {
	return bind(domainWrap+"/"+k.id, context)
}

// String keeps the key out of logs and messages, as do GoString and LogValue.
func (k *KEK) String() string { return "seal.KEK(" + k.id + ")" }

// GoString implements fmt.GoStringer.
func (k *KEK) GoString() string { return k.String() }

// LogValue implements slog.LogValuer.
func (k *KEK) LogValue() slog.Value { return slog.StringValue(k.String()) }
