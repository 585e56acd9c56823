package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
)

// Writer writes one archive. What it holds in memory is one buffer.
type Writer struct {
	out *bufio.Writer
	sum hash.Hash
	m   Manifest
	err error // the first; nothing is written after it
}

// NewWriter begins an archive.
func NewWriter(w io.Writer, m Manifest) (*Writer, error) {
	a := &Writer{sum: sha256.New(), m: m}
	a.out = bufio.NewWriterSize(io.MultiWriter(w, a.sum), 64<<10)
	a.m.V, a.m.End = Version, End{}
	a.write([]byte(magic))
	a.frameJSON(frameHead, a.m)
	return a, a.err
}

// Put adds an entry.
func (a *Writer) Put(name string, value []byte) error {
	if len(name) == 0 || len(name) > MaxName || len(value) > MaxValue {
		return fmt.Errorf("an entry of %d bytes named by %d: at most %d and %d are allowed", len(value), len(name), MaxValue, MaxName)
	}
	a.write([]byte{frameEntry})
	a.field([]byte(name))
	a.field(value)
	a.m.End.Entries++
	a.m.End.Bytes += int64(len(name) + len(value))
	return a.err
}

// Close ends the archive and returns the whole manifest. It does not close what is below.
func (a *Writer) Close(keks, omitted []string) (Manifest, error) {
	a.m.End.KEKs, a.m.End.Omitted = keks, omitted
	a.frameJSON(frameEnd, a.m.End)
	if a.err == nil {
		a.err = a.out.Flush() // the sum is of all before it
	}
	sum := a.sum.Sum(nil)
	a.write(sum)
	if a.err == nil {
		a.err = a.out.Flush()
	}
	a.m.End.Sum = hex.EncodeToString(sum)
	return a.m, a.err
}

func (a *Writer) frameJSON(kind byte, v any) {
	b, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.write([]byte{kind})
	a.field(b)
}

func (a *Writer) field(b []byte) {
	a.write(binary.AppendUvarint(nil, uint64(len(b))))
	a.write(b)
}

func (a *Writer) write(b []byte) {
	if a.err == nil {
		_, a.err = a.out.Write(b)
	}
}
