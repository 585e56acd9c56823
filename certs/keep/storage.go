package keep

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"sync"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// MaxFile bounds the value of one file.
const MaxFile = 256 << 10

// sealOverhead is by how much a sealed value is longer than a plain one: version, nonce, tag.
const sealOverhead = 1 + 12 + 16

// Storage is certmagic.Storage for one owner: files whose values are sealed, and locks that all replicas respect. It is a
// view for one piece of work: what is stored or deleted through it is fenced by the locks that were taken through it, so a
// holder that was paused until its lock went to another one cannot write any more. It is safe for concurrent use.
type Storage struct {
	keeper *Keeper
	owner  vault.Owner
	mu     sync.Mutex            // guards held
	held   map[string]vault.Lock // by the name that the caller gave
}

var (
	_ certmagic.Storage   = (*Storage)(nil)
	_ certmagic.TryLocker = (*Storage)(nil)
)

// file is the record of a file.
type file struct {
	V      int    `json:"v"`
	Sealed []byte `json:"s"`
}

// Storage returns a view of an owner's files that holds no locks.
func (k *Keeper) Storage(o vault.Owner) *Storage {
	return &Storage{keeper: k, owner: o, held: make(map[string]vault.Lock)}
}

// String names the storage in certmagic's logs.
func (s *Storage) String() string { return "vault:" + s.owner.Segment() }

// Store implements certmagic.Storage: the value is there as a whole, for all replicas, or the error says that it is not. The
// error wraps vault.ErrFenced if a lock of this view was lost.
func (s *Storage) Store(ctx context.Context, name string, value []byte) error {
	key, err := s.begin(ctx, name)
	if err != nil {
		return err
	}
	if len(value) > MaxFile {
		return fault.New(fault.TooLarge, "%q has %d bytes: at most %d are kept", name, len(value), MaxFile)
	}
	_, err = s.keeper.commit(ctx, s.owner, func(d *dataKey) (vault.Batch, error) {
		b, err := sealFile(d, s.owner, key, value)
		return vault.Batch{Puts: []vault.Put{{Key: key, Value: b}}, Fences: s.fences()}, err
	})
	return s.explain("store", name, err)
}

// Load implements certmagic.Storage. The error is fs.ErrNotExist for what is not a file.
func (s *Storage) Load(ctx context.Context, name string) ([]byte, error) {
	key, err := s.begin(ctx, name)
	if err != nil {
		return nil, err
	}
	it, err := s.keeper.vault.Get(ctx, s.owner, key)
	if err != nil {
		return nil, s.explain("load", name, err)
	}
	plain, err := s.keeper.openFile(ctx, s.owner, key, it.Value)
	return plain, s.explain("load", name, err)
}

// Delete implements certmagic.Storage: the file of this name, and all below it. What is not there is no error.
func (s *Storage) Delete(ctx context.Context, name string) error {
	key, err := s.begin(ctx, name)
	if err != nil {
		return err
	}
	_, err = s.keeper.vault.Commit(ctx, s.owner, vault.Batch{Trees: []string{key}, Fences: s.fences()})
	if fault.Is(err, fault.NotFound) {
		return nil // the owner is gone, and all it had
	}
	return s.explain("delete", name, err)
}

// Exists implements certmagic.Storage. It is false where that could not be found out.
func (s *Storage) Exists(ctx context.Context, name string) bool {
	_, err := s.Stat(ctx, name)
	return err == nil
}

// Stat implements certmagic.Storage.
func (s *Storage) Stat(ctx context.Context, name string) (certmagic.KeyInfo, error) {
	key, err := s.begin(ctx, name)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	it, err := s.keeper.vault.Get(ctx, s.owner, key)
	if fault.Is(err, fault.NotFound) {
		return s.statDir(ctx, name, key)
	}
	if err != nil {
		return certmagic.KeyInfo{}, s.explain("stat", name, err)
	}
	f, err := decodeFile(it.Value)
	if err != nil {
		return certmagic.KeyInfo{}, s.explain("stat", name, err)
	}
	return certmagic.KeyInfo{Key: name, Modified: it.Modified, Size: int64(len(f.Sealed) - sealOverhead), IsTerminal: true}, nil
}

func (s *Storage) statDir(ctx context.Context, name, key string) (certmagic.KeyInfo, error) {
	items, _, err := s.keeper.vault.List(ctx, s.owner, key, "", 1)
	if err == nil && len(items) == 0 {
		err = fault.New(fault.NotFound, "there is nothing of that name")
	}
	if err != nil {
		return certmagic.KeyInfo{}, s.explain("stat", name, err)
	}
	return certmagic.KeyInfo{Key: name, Modified: items[0].Modified}, nil
}

// begin is what every call on a file starts with.
func (s *Storage) begin(ctx context.Context, name string) (key string, err error) {
	if key, err = fileKey(name); err != nil {
		return "", err
	}
	return key, ended(ctx)
}

// explain wraps an error: what is not there is fs.ErrNotExist to certmagic.
func (s *Storage) explain(what, name string, err error) error {
	if err == nil {
		return nil
	}
	if fault.Is(err, fault.NotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return fmt.Errorf("%s %q of %s: %w", what, name, s.owner.Segment(), err)
}

// sealFile makes the stored form of a value that is kept under a key.
func sealFile(d *dataKey, o vault.Owner, key string, plain []byte) ([]byte, error) {
	sealed, err := d.Seal(plain, place(o, key)...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return json.Marshal(file{V: version, Sealed: sealed})
}

// openFile is the reverse of sealFile.
func (k *Keeper) openFile(ctx context.Context, o vault.Owner, key string, value []byte) ([]byte, error) {
	f, err := decodeFile(value)
	if err != nil {
		return nil, err
	}
	return k.open(ctx, o, key, f.Sealed)
}

func decodeFile(b []byte) (file, error) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%w: delete it (%w)", vault.ErrDamaged, err)
	}
	if err := checkVersion(f.V); err != nil {
		return f, err
	}
	if len(f.Sealed) < sealOverhead {
		return f, fmt.Errorf("%w: delete it", vault.ErrDamaged)
	}
	return f, nil
}
