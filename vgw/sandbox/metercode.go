package sandbox

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A stored period is its version and its rows, sorted by owner and epoch: of each the owner (how many bytes are those of the row
// before, and the others), the epoch less that of the row before, the number of amounts and the amounts. A version after this one
// may add amounts at the end, which this one passes over.
const (
	periodVersion = 1
	maxRef        = 1024 // bytes of an owner's Ref; those that exist are shorter
	maxFields     = 64
)

var errPeriod = errors.New("the stored period is damaged")

// sheet is what a period holds, by payer.
type sheet struct {
	of    map[Payer]Amounts
	bytes int // of the rows when they are encoded, at most about
}

func newSheet() *sheet { return &sheet{of: map[Payer]Amounts{}} }

func comparePayers(a, b Payer) int {
	return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Epoch, b.Epoch))
}

// encode leaves out rows of nothing.
func (t *sheet) encode() []byte {
	all := slices.SortedFunc(maps.Keys(t.of), comparePayers)
	all = slices.DeleteFunc(all, func(p Payer) bool { return t.of[p] == Amounts{} })
	out := []byte{periodVersion}
	out = binary.AppendUvarint(out, uint64(len(all)))
	var last Payer
	for _, p := range all {
		n := common(last.Owner, p.Owner)
		out = binary.AppendUvarint(out, uint64(n))
		out = binary.AppendUvarint(out, uint64(len(p.Owner)-n))
		out = append(out, p.Owner[n:]...)
		out = binary.AppendVarint(out, p.Epoch-last.Epoch)
		out = binary.AppendUvarint(out, numAmounts)
		a := t.of[p]
		for _, f := range a.fields() {
			out = binary.AppendVarint(out, *f)
		}
		last = p
	}
	return out
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// decodeSheet reads what encode wrote.
func decodeSheet(value []byte) (*sheet, error) {
	if len(value) == 0 || value[0] < 1 || value[0] > periodVersion+1 {
		return nil, fmt.Errorf("%w: its version is unknown", errPeriod)
	}
	d := &decoder{left: value[1:]}
	n := d.number(uint64(len(value)))
	out := newSheet()
	var last Payer
	for range n {
		p, a := d.row(last)
		if d.bad || comparePayers(last, p) >= 0 && len(out.of) > 0 {
			return nil, errPeriod
		}
		out.set(p, a)
		last = p
	}
	if d.bad || len(d.left) > 0 {
		return nil, errPeriod
	}
	return out, nil
}

// decoder reads numbers and text. After something that cannot be, it is bad and reads zeros.
type decoder struct {
	left []byte
	bad  bool
}

func (d *decoder) row(last Payer) (p Payer, a Amounts) {
	shared := d.number(uint64(len(last.Owner)))
	p.Owner = last.Owner[:shared] + d.text(d.number(maxRef-shared))
	p.Epoch = last.Epoch + d.signed()
	fields := a.fields()
	for i := range d.number(maxFields) {
		if v := d.signed(); i < numAmounts {
			*fields[i] = v
		}
	}
	return p, a
}

func (d *decoder) number(most uint64) uint64 {
	v, n := binary.Uvarint(d.left)
	if n <= 0 || v > most {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	d.left = d.left[n:]
	return v
}

func (d *decoder) signed() int64 {
	v, n := binary.Varint(d.left)
	if n <= 0 {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	d.left = d.left[n:]
	return v
}

func (d *decoder) text(n uint64) string {
	if d.bad || n > uint64(len(d.left)) {
		d.bad = true
		return ""
	}
	s := string(d.left[:n])
	d.left = d.left[n:]
	return s
}
