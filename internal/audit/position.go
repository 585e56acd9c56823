package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// maxCursor bounds the text of a cursor.
const maxCursor = 64 << 10

// position is where a listing stands: for each log that may still have records, its segment and the number of the record
// that everything before it is still to be looked at. Numbers do not change when files rotate or lines arrive, so the
// listing neither repeats nor misses a record. The chain is never in it: it comes from the query, so a forged cursor leads to
// nothing that the query does not allow.
type position struct {
	query [8]byte               // digest of the query that it belongs to
	logs  map[logID]logPosition // nil = at the beginning
}

// logID is the digest of a log's name.
type logID [8]byte

type logPosition struct {
	segment uint64 // this one and older; 0 = the active file, too
	bound   uint64 // records with a smaller number
}

// id names the chain of a writer in a log.
func (l *logFiles) id(writer string) logID {
	name := l.name
	if writer != "" {
		name += "\x00" + writer
	}
	h := sha256.Sum256([]byte(name))
	return logID(h[:8])
}

// digest tells queries apart, so that a cursor of one is not used with another. Limit may change between pages.
func (q *Query) digest() [8]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %v %v %d %d %q %q %q %q %q", q.Tenant, q.TenantUID, q.AnyUID, q.Platform, nanos(q.From), nanos(q.To),
		q.Principal, q.Action, q.Outcome, q.Decision, q.RequestID)
	return [8]byte(h.Sum(nil))
}

// nanos is t in unix nanoseconds; the bounds of what these can say stand for all beyond, and 0 for the zero time.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() < 1700:
		return math.MinInt64 + 1
	case t.Year() > 2200:
		return math.MaxInt64
	}
	return t.UnixNano()
}

func (p position) String() string {
	b := append([]byte{1}, p.query[:]...)
	for _, id := range slices.SortedFunc(maps.Keys(p.logs), func(a, b logID) int { return slices.Compare(a[:], b[:]) }) {
		b = append(b, id[:]...)
		b = binary.AppendUvarint(b, p.logs[id].segment)
		b = binary.AppendUvarint(b, p.logs[id].bound)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePosition reads what String wrote for this query.
func parsePosition(text string, query [8]byte) (position, error) {
	p := position{query: query}
	if text == "" {
		return p, nil
	}
	bad := fault.New(fault.Invalid, "the cursor is not one of this query: ask again without it")
	if len(text) > maxCursor {
		return p, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 9 || b[0] != 1 || [8]byte(b[1:9]) != query {
		return p, bad
	}
	p.logs = make(map[logID]logPosition)
	for b = b[9:]; len(b) > 0; {
		if len(b) < 8 {
			return p, bad
		}
		id := logID(b[:8])
		segment, n := binary.Uvarint(b[8:])
		if n <= 0 {
			return p, bad
		}
		bound, m := binary.Uvarint(b[8+n:])
		if m <= 0 {
			return p, bad
		}
		p.logs[id] = logPosition{segment, bound}
		b = b[8+n+m:]
	}
	return p, nil
}
