package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"

	"github.com/polygate/polygate/internal/fault"
)

// The names of entries that hold secrets: sealed for a recipient as age files (https://age-encryption.org/v1), or opened by him.
const (
	sealedPrefix = "secrets.age/"
	openPrefix   = "secrets/"
	secretsChunk = 256 << 10 // bytes of secrets in an entry, about
)

// Secrets are secrets by the names of what they belong to.
type Secrets map[string][]byte

// ParseRecipient reads the text form of an age recipient, age1….
func ParseRecipient(text string) (age.Recipient, error) {
	all, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(all) != 1 {
		return nil, fault.New(fault.Invalid, "recipient is no age recipient: make one with age-keygen, and send the line that begins with age1")
	}
	return all[0], nil
}

// PutSecrets adds secrets that only the recipient can open.
func (a *Writer) PutSecrets(s Secrets, to age.Recipient) error {
	n, size, part := 0, 0, Secrets{}
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		b, err := sealFor(part, to)
		if err != nil {
			return err
		}
		n, size, part = n+1, 0, Secrets{}
		return a.Put(sealedPrefix+strconv.Itoa(n), b)
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		part[name] = s[name]
		if size += len(name) + len(s[name]); size >= secretsChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func sealFor(s Secrets, to age.Recipient) ([]byte, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode secrets: %w", err)
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	_, werr := w.Write(plain)
	if err := errors.Join(werr, w.Close()); err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	return b.Bytes(), nil
}

// Sealed says whether an entry's secrets are sealed for a recipient.
func Sealed(name string) bool { return strings.HasPrefix(name, sealedPrefix) }

// Opened adds the secrets of an entry, if it is one of opened secrets.
func (s Secrets) Opened(name string, value []byte) (ok bool, err error) {
	if !strings.HasPrefix(name, openPrefix) {
		return false, nil
	}
	var part Secrets
	if err := json.Unmarshal(value, &part); err != nil {
		return true, fmt.Errorf("%w (%w)", ErrDamaged, err)
	}
	maps.Copy(s, part)
	return true, nil
}

// Open copies an archive with its secrets opened, for a platform to import it. The copy holds them in the clear: it is for a
// connection that nobody reads, not for a file.
func Open(w io.Writer, r io.Reader, ids ...age.Identity) (Manifest, error) {
	in, err := NewReader(r)
	if err != nil {
		return Manifest{}, err
	}
	out, err := NewWriter(w, in.Manifest())
	if err != nil {
		return Manifest{}, err
	}
	for {
		name, value, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			name, value, err = opened(name, value, ids)
		}
		if err == nil {
			err = out.Put(name, value)
		}
		if err != nil {
			return Manifest{}, err
		}
	}
	end := in.Manifest().End
	return out.Close(end.KEKs, end.Omitted)
}

func opened(name string, value []byte, ids []age.Identity) (string, []byte, error) {
	n, sealed := strings.CutPrefix(name, sealedPrefix)
	if !sealed {
		return name, value, nil
	}
	if len(ids) == 0 {
		return "", nil, errors.New("the archive's secrets are sealed: name the file of the age identity that they are for")
	}
	r, err := age.Decrypt(bytes.NewReader(value), ids...)
	if err != nil {
		return "", nil, fmt.Errorf("open the archive's secrets: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxValue+1))
	if err != nil {
		return "", nil, fmt.Errorf("open the archive's secrets: %w", err)
	}
	return openPrefix + n, plain, nil
}
