package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"time"
)

// fileIndex says where in a file the lines of each chain are. It is a hint: whatever is read through it is checked, so
// that a damaged or forged one can hide records from a query and never show those of another tenant. The verifier does
// not use it.
type fileIndex struct {
	covered  int64 // up to here the file is indexed; lines are whole
	min, max int64 // times of the entries, unix nanoseconds
	chains   map[string]*chainIndex
	writers  map[string]bool // whose chains these are; "" = without a name. It is not stored
}

// chainIndex is one chain in a file.
type chainIndex struct {
	first, last uint64 // numbers of the first and the last line
	n           int    // how many
	min, max    int64
	at          int64  // offset of the last line
	deltas      []byte // offsets of the lines, as uvarint differences
}

func newIndex() *fileIndex {
	return &fileIndex{min: math.MaxInt64, max: math.MinInt64, chains: make(map[string]*chainIndex), writers: make(map[string]bool)}
}

// consecutive says whether line i of the index has the number first+i, as it is in a log that is whole.
func (c *chainIndex) consecutive() bool { return c.last-c.first == uint64(c.n)-1 }

// offsets returns where the lines are, oldest first; what is not an offset within the file ends them.
func (c *chainIndex) offsets(size int64) []int64 {
	out := make([]int64, 0, min(c.n, len(c.deltas)))
	at, rest := int64(0), c.deltas
	for len(rest) > 0 && len(out) < c.n {
		d, n := binary.Uvarint(rest)
		if n <= 0 || d > uint64(size) || at+int64(d) >= size {
			break
		}
		at, rest = at+int64(d), rest[n:]
		out = append(out, at)
	}
	return out
}

// add takes a line into the index.
func (x *fileIndex) add(chain []byte, seq uint64, t, offset int64) {
	c := x.chains[string(chain)]
	if c == nil {
		c = &chainIndex{first: seq, min: math.MaxInt64, max: math.MinInt64}
		x.chains[string(chain)] = c
		_, writer := SplitChain(string(chain))
		x.writers[writer] = true
	}
	c.deltas = binary.AppendUvarint(c.deltas, uint64(offset-c.at))
	c.at, c.last = offset, seq
	c.n++
	lo, hi := t, t
	if t == unknownTime {
		lo, hi = math.MinInt64, math.MaxInt64
	}
	c.min, c.max = min(c.min, lo), max(c.max, hi)
	x.min, x.max = min(x.min, lo), max(x.max, hi)
}

const unknownTime = math.MinInt64

// extend indexes the whole lines of r from where it ended up to size, or until spent says so.
func (x *fileIndex) extend(r io.ReaderAt, size int64, spent func(read int64) bool) error {
	if size <= x.covered {
		return nil
	}
	sc := newScanner(io.NewSectionReader(r, x.covered, size-x.covered), x.covered)
	for {
		err := sc.next()
		if errors.Is(err, io.EOF) || err == nil && !sc.whole {
			return nil
		}
		if err != nil {
			return fmt.Errorf("index audit log: %w", err)
		}
		if chain, seq, t, ok := glance(sc.text); ok && len(x.chains) < maxChains {
			x.add(chain, seq, t, sc.start)
		}
		n := sc.end - x.covered
		x.covered = sc.end
		if spent(n) {
			return nil
		}
	}
}

// glance reads from a line what the index needs, without checking the rest.
func glance(text []byte) (chain []byte, seq uint64, t int64, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(partChain))
	n := bytes.IndexByte(rest, '"')
	if !ok || n <= 0 || n > maxChain {
		return nil, 0, 0, false
	}
	chain = rest[:n]
	c := cursor{rest: rest[n:], ok: true}
	c.literal(partSeq)
	seq = c.number()
	return chain, seq, glanceTime(c.rest), c.ok
}

// glanceTime finds the time that stands behind the id in what EncodeEntry writes; unknownTime if it does not.
func glanceTime(rest []byte) int64 {
	const fixed = len(partPrev) + 64 + len(partHash) + 64 + len(partEntry) + len(`{"id":"`)
	if len(rest) < fixed {
		return unknownTime
	}
	rest = rest[fixed:]
	id := bytes.IndexByte(rest, '"')
	if id < 0 {
		return unknownTime
	}
	rest, ok := bytes.CutPrefix(rest[id:], []byte(`","time":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return unknownTime
	}
	t, err := time.Parse(time.RFC3339Nano, string(rest[:end]))
	if err != nil || t.Year() < 1700 || t.Year() > 2200 { // beyond, nanoseconds do not fit
		return unknownTime
	}
	return t.UnixNano()
}

// The sidecar of a segment: a fixed head, a directory of the chains by name, and the offsets of each. Numbers in the head
// are big-endian; each part has a checksum, since a torn one must be told from a good one.
const (
	indexMagic   = "pgaidx1\n"
	indexHead    = 8 + 8 + 8 + 8 + 4 + 4 + 4
	maxDirectory = 128 << 20
)

// encode returns the sidecar's bytes.
func (x *fileIndex) encode() []byte {
	var dir, data []byte
	for _, name := range slices.Sorted(maps.Keys(x.chains)) {
		c := x.chains[name]
		dir = append(dir, byte(len(name)))
		dir = append(dir, name...)
		for _, v := range []uint64{c.first, c.last, uint64(c.n), uint64(c.min), uint64(c.max), uint64(c.at), uint64(len(data)), uint64(len(c.deltas))} {
			dir = binary.BigEndian.AppendUint64(dir, v)
		}
		dir = binary.BigEndian.AppendUint32(dir, crc32.ChecksumIEEE(c.deltas))
		data = append(data, c.deltas...)
	}
	b := append(make([]byte, 0, indexHead+len(dir)+len(data)), indexMagic...)
	for _, v := range []int64{x.covered, x.min, x.max} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(dir)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(dir))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return append(append(b, dir...), data...)
}

// sidecar reads parts of a stored index.
type sidecar struct {
	r        io.ReaderAt
	size     int64 // of the segment that it is of
	min, max int64
	dirLen   int64
	dirSum   uint32
}

var errIndex = errors.New("no index of this segment")

// openSidecar reads the head. Any error means: make it anew.
func openSidecar(r io.ReaderAt, segment int64) (*sidecar, error) {
	var b [indexHead]byte
	if _, err := r.ReadAt(b[:], 0); err != nil || string(b[:8]) != indexMagic {
		return nil, errIndex
	}
	num := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	s := &sidecar{r: r, size: num(8), min: num(16), max: num(24), dirLen: int64(binary.BigEndian.Uint32(b[32:])), dirSum: binary.BigEndian.Uint32(b[36:])}
	if crc32.ChecksumIEEE(b[:40]) != binary.BigEndian.Uint32(b[40:]) || s.size != segment || s.dirLen > maxDirectory {
		return nil, errIndex
	}
	return s, nil
}

// chain returns a chain's part, nil if the segment has no line of it, and how many bytes it read.
func (s *sidecar) chain(name string) (c *chainIndex, read int64, err error) {
	dir := make([]byte, s.dirLen)
	if _, err := s.r.ReadAt(dir, indexHead); err != nil && !errors.Is(err, io.EOF) || crc32.ChecksumIEEE(dir) != s.dirSum {
		return nil, s.dirLen, errIndex
	}
	const fields = 8*8 + 4
	for rest := dir; len(rest) > 0; {
		n := int(rest[0])
		if len(rest) < 1+n+fields {
			return nil, s.dirLen, errIndex
		}
		if string(rest[1:1+n]) == name {
			c, n, err := s.load(rest[1+n : 1+n+fields])
			return c, s.dirLen + n, err
		}
		rest = rest[1+n+fields:]
	}
	return nil, s.dirLen, nil
}

// load reads a chain's offsets by its fields in the directory.
func (s *sidecar) load(f []byte) (*chainIndex, int64, error) {
	num := func(i int) uint64 { return binary.BigEndian.Uint64(f[8*i:]) }
	at, size := num(6), num(7)
	// Every line has at least 16 bytes, and its offset is a uvarint of at most 10.
	if num(2) == 0 || num(2) > uint64(s.size)/16+1 || size > 10*num(2) || at > math.MaxInt32*16 || num(1) < num(0) {
		return nil, 0, errIndex
	}
	c := &chainIndex{first: num(0), last: num(1), n: int(num(2)), min: int64(num(3)), max: int64(num(4)), at: int64(num(5)), deltas: make([]byte, size)}
	_, err := s.r.ReadAt(c.deltas, indexHead+s.dirLen+int64(at))
	if err != nil && !errors.Is(err, io.EOF) || crc32.ChecksumIEEE(c.deltas) != binary.BigEndian.Uint32(f[64:]) {
		return nil, int64(size), errIndex
	}
	return c, int64(size), nil
}

// storeIndex writes the sidecar of a segment. It is not synced: a reader checks it.
func storeIndex(segment string, x *fileIndex) error {
	f, err := os.CreateTemp(dirOf(segment), ".idx-*")
	if err != nil {
		return err
	}
	_, err = f.Write(x.encode())
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), segment+indexSuffix)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
