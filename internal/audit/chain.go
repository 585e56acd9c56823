package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// MaxLine is the longest line of the log, in bytes with its newline. Writers clip the fields of an entry so that every
// entry fits; readers refuse what is longer, so that a damaged file cannot fill their memory.
const MaxLine = 64 << 10

// Bounds of an entry's fields, in bytes. Escaping makes at most six bytes of one, so all fields together stay well
// below MaxLine.
const (
	maxResource = 4096
	maxField    = 256
)

// ErrMalformed is wrapped by the errors of ParseLine.
var ErrMalformed = errors.New("not an audit record")

// Head is the last record of a chain: how many records it has, and the hash that vouches for all of them.
// The zero Head is that of a chain with no record yet.
type Head struct {
	Seq  uint64
	Hash [sha256.Size]byte
}

type headJSON struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// MarshalJSON implements json.Marshaler: {"seq":n,"hash":"<hex>"}.
func (h Head) MarshalJSON() ([]byte, error) {
	return json.Marshal(headJSON{h.Seq, hex.EncodeToString(h.Hash[:])})
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *Head) UnmarshalJSON(b []byte) error {
	var j headJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	raw, err := hex.DecodeString(j.Hash)
	if err != nil || len(raw) != len(h.Hash) {
		return fmt.Errorf("audit head: hash %q is not %d hex digits", j.Hash, 2*len(h.Hash))
	}
	h.Seq = j.Seq
	copy(h.Hash[:], raw)
	return nil
}

// Next returns the line that carries entry, which is the output of EncodeEntry, as the next of chain.
func (h Head) Next(chain string, entry []byte) Line {
	l := Line{Chain: chain, Seq: h.Seq + 1, Prev: h.Hash, Entry: entry}
	l.Hash = sum(chain, l.Seq, l.Prev, entry)
	return l
}

// Line is one record of the log: an entry and its place in its chain.
type Line struct {
	Chain string            // a tenant's id, PlatformChain or CheckpointChain, perhaps with a replica: see ChainName
	Seq   uint64            // 1 for the first of the chain
	Prev  [sha256.Size]byte // Hash of the one before; zero for the first
	Hash  [sha256.Size]byte // over chain, seq, prev and entry
	Entry json.RawMessage   // the entry, byte for byte as it was hashed
}

// Head returns the chain's head once l is its last line.
func (l Line) Head() Head { return Head{l.Seq, l.Hash} }

// Intact says whether the hash is that of the content.
func (l Line) Intact() bool { return l.Hash == sum(l.Chain, l.Seq, l.Prev, l.Entry) }

// Follows says whether l is the record after h, by number and by hash.
func (l Line) Follows(h Head) bool { return l.Seq == h.Seq+1 && l.Prev == h.Hash }

// Decode returns the entry.
func (l Line) Decode() (Entry, error) {
	var e Entry
	if err := json.Unmarshal(l.Entry, &e); err != nil {
		return Entry{}, fmt.Errorf("audit record %d of %s: %w", l.Seq, l.Chain, err)
	}
	return e, nil
}

// sum is the hash of a record. All parts but the last are of fixed or stated length, so that no two records have the
// same input; the label keeps the hash from meaning anything elsewhere.
func sum(chain string, seq uint64, prev [sha256.Size]byte, entry []byte) (out [sha256.Size]byte) {
	var frame [16 + 4 + maxChain + 8 + sha256.Size]byte
	b := append(frame[:0], "polygate audit 1"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(chain)))
	b = append(b, chain...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, prev[:]...)
	h := sha256.New()
	h.Write(b)
	h.Write(entry)
	h.Sum(out[:0])
	return out
}

// The fixed parts of a line. Every other byte of it is hashed or is the hash, so no byte can change unseen.
const (
	partChain = `{"v":1,"chain":"`
	partSeq   = `","seq":`
	partPrev  = `,"prev":"`
	partHash  = `","hash":"`
	partEntry = `","entry":`
	partEnd   = `}`
)

// AppendLine appends the text of l and a newline to dst. The entry's bytes are copied, never marshalled again.
func AppendLine(dst []byte, l Line) []byte {
	dst = append(dst, partChain...)
	dst = append(dst, l.Chain...)
	dst = append(dst, partSeq...)
	dst = strconv.AppendUint(dst, l.Seq, 10)
	dst = append(dst, partPrev...)
	dst = hex.AppendEncode(dst, l.Prev[:])
	dst = append(dst, partHash...)
	dst = hex.AppendEncode(dst, l.Hash[:])
	dst = append(dst, partEntry...)
	dst = append(dst, l.Entry...)
	return append(dst, partEnd+"\n"...)
}

// ParseLine reads the text of a line, without its newline. It accepts exactly what AppendLine writes. It does not
// check the hash; see Intact. The line's Entry shares b's memory.
func ParseLine(b []byte) (Line, error) {
	if i := slices.IndexFunc(b, unprintable); i >= 0 {
		return Line{}, fmt.Errorf("%w: byte %d is %#02x", ErrMalformed, i+1, b[i])
	}
	var l Line
	c := cursor{rest: b, ok: true}
	c.literal(partChain)
	l.Chain = c.name()
	c.literal(partSeq)
	l.Seq = c.number()
	c.literal(partPrev)
	c.hex(&l.Prev)
	c.literal(partHash)
	c.hex(&l.Hash)
	c.literal(partEntry)
	if !c.ok {
		return Line{}, fmt.Errorf("%w: unexpected text at byte %d", ErrMalformed, len(b)-len(c.rest)+1)
	}
	entry, ok := bytes.CutSuffix(c.rest, []byte(partEnd))
	if !ok || len(entry) == 0 || entry[0] != '{' || !json.Valid(entry) {
		return Line{}, fmt.Errorf("%w: its entry is not a JSON object", ErrMalformed)
	}
	l.Entry = entry
	return l, nil
}

func unprintable(c byte) bool { return c < 0x20 || c > 0x7e }

// cursor reads a line's fixed layout. Once a read failed, ok is false and the rest of the reads do nothing.
type cursor struct {
	rest []byte
	ok   bool
}

func (c *cursor) literal(s string) {
	if c.ok = c.ok && len(c.rest) >= len(s) && string(c.rest[:len(s)]) == s; c.ok {
		c.rest = c.rest[len(s):]
	}
}

// name reads a chain's name: the bytes of a tenant id, and '_'; then perhaps an '@' and a replica's name.
func (c *cursor) name() string {
	n := run(c.rest, baseByte)
	ok := n > 0 && n <= maxBase
	if n < len(c.rest) && c.rest[n] == '@' {
		m := run(c.rest[n+1:], nameByte)
		n, ok = n+1+m, ok && m > 0 && m <= maxReplica
	}
	if c.ok = c.ok && ok; !c.ok {
		return ""
	}
	s := string(c.rest[:n])
	c.rest = c.rest[n:]
	return s
}

// run returns how many bytes at the start of b are of a set.
func run(b []byte, in func(byte) bool) int {
	if i := slices.IndexFunc(b, func(c byte) bool { return !in(c) }); i >= 0 {
		return i
	}
	return len(b)
}

func (c *cursor) number() uint64 {
	n := 0
	for n < len(c.rest) && c.rest[n] >= '0' && c.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(c.rest[:n]), 10, 64)
	if c.ok = c.ok && err == nil && c.rest[0] != '0'; !c.ok {
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) hex(dst *[sha256.Size]byte) {
	n := 2 * len(dst)
	if c.ok = c.ok && len(c.rest) >= n && !slices.ContainsFunc(c.rest[:n], upper); !c.ok {
		return
	}
	_, err := hex.Decode(dst[:], c.rest[:n])
	if c.ok = err == nil; c.ok {
		c.rest = c.rest[n:]
	}
}

func upper(c byte) bool { return c >= 'A' && c <= 'F' }

// EncodeEntry returns the JSON of e in printable ASCII: whatever a caller puts in a field, control bytes, terminal
// escapes, line separators, directional overrides and invalid UTF-8 come out as \uXXXX, so that a record is always one
// line that shows what it holds (CVE-2025-25294 and -2022-23469 forged log lines). Fields over their bound are clipped
// and say by how much.
func EncodeEntry(e Entry) []byte {
	e = bounded(e)
	b, err := json.Marshal(&e)
	if err != nil { // no field of Entry can fail now
		panic("audit: encode entry: " + err.Error())
	}
	return ascii(b)
}

// bounded returns e with every field clipped to its bound.
func bounded(e Entry) Entry {
	for _, f := range []*string{&e.ID, (*string)(&e.Tenant), &e.TenantUID, &e.Replica, &e.Principal, &e.Name, &e.Role, &e.Action,
		&e.Decision, &e.Rule, &e.Outcome, &e.RequestID, &e.Issuer, &e.KeyID, &e.Via, &e.Bundle, &e.Remote} {
		*f = clip(*f, maxField)
	}
	e.Resource = clip(e.Resource, maxResource)
	if e.Time = e.Time.UTC(); e.Time.Year() < 0 || e.Time.Year() > 9999 {
		e.Time = time.Time{} // RFC 3339 cannot write it, and a clock gone wrong must not stop the log
	}
	return e
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + fmt.Sprintf("...(+%d bytes)", len(s)-cut)
}

// ascii escapes what is not printable ASCII in JSON text, where it can only stand within strings.
func ascii(b []byte) []byte {
	if !slices.ContainsFunc(b, unprintable) {
		return b
	}
	out := make([]byte, 0, 2*len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r < utf8.RuneSelf && !unprintable(byte(r)):
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		b = b[n:]
	}
	return out
}
