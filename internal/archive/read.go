package archive

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

// Reader reads one archive. Nothing that Next returns is to be believed before Next has returned io.EOF: only then is the
// archive known to be whole. Verify reads one to its end.
type Reader struct {
	in   *bufio.Reader
	sum  hash.Hash // of what was consumed
	at   int64
	m    Manifest
	done bool
}

// NewReader reads the beginning of an archive.
func NewReader(r io.Reader) (*Reader, error) {
	a := &Reader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	head := make([]byte, len(magic))
	if err := a.read(head); err != nil || string(head) != magic {
		return nil, fmt.Errorf("this is no archive of Polygate: %w", errors.Join(ErrDamaged, err))
	}
	kind, err := a.kind()
	if err != nil {
		return nil, err
	}
	if kind != frameHead {
		return nil, a.damaged("it has no manifest")
	}
	b, err := a.field(maxHead)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &a.m); err != nil || a.m.V < 1 {
		return nil, a.damaged("its manifest cannot be read")
	}
	if a.m.V > Version+1 {
		return nil, fmt.Errorf("version %d: %w", a.m.V, ErrNewer)
	}
	return a, nil
}

// Verify reads an archive to its end and returns its manifest, if it is whole.
func Verify(r io.Reader) (Manifest, error) {
	a, err := NewReader(r)
	if err != nil {
		return Manifest{}, err
	}
	for {
		_, _, err := a.Next()
		if errors.Is(err, io.EOF) {
			return a.m, nil
		}
		if err != nil {
			return Manifest{}, err
		}
	}
}

// Manifest returns what the archive is of; its End is set once Next has returned io.EOF.
func (a *Reader) Manifest() Manifest { return a.m }

// Next returns an entry, or io.EOF when the archive has been read to its end and is whole.
func (a *Reader) Next() (name string, value []byte, err error) {
	if a.done {
		return "", nil, io.EOF
	}
	kind, err := a.kind()
	if err != nil {
		return "", nil, err
	}
	if kind == frameEnd {
		return "", nil, a.finish()
	}
	if kind != frameEntry {
		return "", nil, a.damaged("a part of it is of an unknown type")
	}
	n, err := a.field(MaxName)
	if err != nil {
		return "", nil, err
	}
	value, err = a.field(MaxValue)
	if err != nil {
		return "", nil, err
	}
	if len(n) == 0 {
		return "", nil, a.damaged("an entry has no name")
	}
	a.m.End.Entries++
	a.m.End.Bytes += int64(len(n) + len(value))
	return string(n), value, nil
}

// finish reads the end, and returns io.EOF if it fits what was read.
func (a *Reader) finish() error {
	b, err := a.field(maxHead)
	if err != nil {
		return err
	}
	var end End
	if json.Unmarshal(b, &end) != nil || end.Entries != a.m.End.Entries || end.Bytes != a.m.End.Bytes {
		return a.damaged("parts of it are missing")
	}
	want := a.sum.Sum(nil)
	got := make([]byte, len(want))
	if err := a.read(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return a.damaged("its checksum does not fit")
	}
	if _, err := a.in.ReadByte(); !errors.Is(err, io.EOF) {
		return a.damaged("something follows its end")
	}
	end.Sum = hex.EncodeToString(want)
	a.m.End, a.done = end, true
	return io.EOF
}

func (a *Reader) kind() (byte, error) {
	var b [1]byte
	err := a.read(b[:])
	return b[0], err
}

// field reads a length and as many bytes. What is claimed to be long takes memory only as it comes.
func (a *Reader) field(limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(byteReader{a})
	if err != nil {
		return nil, a.cut(err)
	}
	if n > limit {
		return nil, a.damaged("a part of it is too long")
	}
	var b bytes.Buffer
	got, err := io.CopyN(&b, a.in, int64(n))
	a.sum.Write(b.Bytes())
	a.at += got
	if err != nil {
		return nil, a.cut(err)
	}
	return b.Bytes(), nil
}

func (a *Reader) read(b []byte) error {
	n, err := io.ReadFull(a.in, b)
	a.sum.Write(b[:n])
	a.at += int64(n)
	if err != nil {
		return a.cut(err)
	}
	return nil
}

// byteReader reads single bytes, which count.
type byteReader struct{ a *Reader }

// ReadByte implements io.ByteReader.
func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	err := r.a.read(b[:])
	return b[0], err
}

// cut is the error for a file that could not be read on.
func (a *Reader) cut(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return a.damaged("it ends here")
	}
	return fmt.Errorf("read the archive at byte %d: %w", a.at, err)
}

func (a *Reader) damaged(why string) error {
	return fmt.Errorf("at byte %d, %s: %w", a.at, why, ErrDamaged)
}
