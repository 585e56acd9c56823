package gateway

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// The form of the product's backups: a line that says what it is, frames (a letter, and fields behind their lengths) of a manifest,
// entries and an end, and the SHA-256 of all that. It is read and written here to make one tenant of a backup many; the product checks
// what it restores.

const archiveMagic = "polygate-archive\n"

// maxField bounds what a damaged length can make us take.
const maxField = 4 << 20

// archived is a key of the registry with its value.
type archived struct {
	name  string
	value []byte
}

// backup is one that is small enough to be held.
type backup struct {
	manifest json.RawMessage
	entries  []archived
	end      map[string]any
}

// readBackup reads a whole one.
func readBackup(in []byte) (*backup, error) {
	rest, ok := bytes.CutPrefix(in, []byte(archiveMagic))
	if !ok {
		return nil, errors.New("it is no backup of the product's")
	}
	sum := sha256.Sum256(in[:max(0, len(in)-sha256.Size)])
	if !bytes.HasSuffix(in, sum[:]) {
		return nil, errors.New("the backup is damaged: its checksum is another")
	}
	r, b := bytes.NewReader(rest), new(backup)
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("the backup has no end: %w", err)
		}
		if done, err := b.frame(kind, r); err != nil || done {
			return b, err
		}
	}
}

// frame reads one, and says whether it was the last.
func (b *backup) frame(kind byte, r *bytes.Reader) (bool, error) {
	first, err := field(r)
	if err != nil {
		return false, err
	}
	switch kind {
	case 'M':
		b.manifest = first
		return false, nil
	case 'K':
		value, err := field(r)
		b.entries = append(b.entries, archived{string(first), value})
		return false, err
	case 'E':
		return true, json.Unmarshal(first, &b.end)
	}
	return false, fmt.Errorf("the backup has a frame %q: is it of a newer version of the product?", kind)
}

func field(r *bytes.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxField || n > uint64(r.Len()) {
		return nil, fmt.Errorf("the backup has a field of %d bytes, of which %d are there", n, r.Len())
	}
	v := make([]byte, n)
	_, err = io.ReadFull(r, v)
	return v, err
}

// archiver writes one of any size.
type archiver struct {
	out            *bufio.Writer
	sum            hash.Hash
	entries, bytes int64
}

// newArchiver begins one with the manifest of another.
func newArchiver(w io.Writer, manifest []byte) *archiver {
	a := &archiver{sum: sha256.New()}
	a.out = bufio.NewWriterSize(io.MultiWriter(w, a.sum), 1<<16)
	_, _ = a.out.WriteString(archiveMagic) // close has the first error
	a.frame('M', manifest)
	return a
}

func (a *archiver) put(e archived) {
	a.entries++
	a.bytes += int64(len(e.name) + len(e.value))
	a.frame('K', []byte(e.name), e.value)
}

// close ends it as another one ended, but for the numbers.
func (a *archiver) close(end map[string]any) error {
	last := make(map[string]any, len(end))
	for k, v := range end {
		last[k] = v
	}
	last["entries"], last["bytes"] = a.entries, a.bytes
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	a.frame('E', b)
	if err := a.out.Flush(); err != nil { // the sum is of all before it
		return err
	}
	_, _ = a.out.Write(a.sum.Sum(nil))
	return a.out.Flush()
}

func (a *archiver) frame(kind byte, fields ...[]byte) {
	_ = a.out.WriteByte(kind)
	for _, f := range fields {
		_, _ = a.out.Write(binary.AppendUvarint(nil, uint64(len(f))))
		_, _ = a.out.Write(f)
	}
}

// hexSum is how the product writes the SHA-256 of a key.
func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
