package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// recordPuts are the replacements of tenants' records by operators, each under the condition that nobody changed the
// record since it was read.
type recordPuts struct {
	mu      *sync.Mutex // guards the rest
	serial  *int
	by      map[string][]recordPut // by tenant
	replies *int
}

type recordPut struct {
	condition string // If-Match
	name      string
	outcome   outcome
	etag      string // of the record as it is then, if acknowledged
}

func newRecordPuts() recordPuts {
	return recordPuts{mu: new(sync.Mutex), serial: new(int), by: make(map[string][]recordPut), replies: new(int)}
}

// putRecord reads a record at one replica and replaces it at another.
func (l *load) putRecord(rng *rand.Rand, tenant int) {
	id := tenantName(tenant)
	path := "/api/v1/tenants/" + id
	was := l.f.anyOperator(rng, http.MethodGet, path, nil)
	l.examine(tenant, "operator's read", was)
	if was.status != 200 {
		return
	}
	l.puts.mu.Lock()
	*l.puts.serial++
	p := recordPut{condition: was.header.Get("Etag"), name: fmt.Sprintf("c-%s-d%d", id, *l.puts.serial)}
	l.puts.mu.Unlock()
	got := l.f.anyOperator(rng, http.MethodPut, path, map[string]string{"display_name": p.name}, "If-Match", p.condition)
	l.examine(tenant, "operator's change", got)
	switch {
	case errors.Is(got.err, errNobody):
		return
	case got.err != nil || got.status >= 500:
		p.outcome = unknown
	case got.status == 200:
		p.outcome, p.etag = done, got.header.Get("Etag")
	default:
		p.outcome = refusal
	}
	l.noteChange(id, got, p.outcome == done)
	l.puts.mu.Lock()
	defer l.puts.mu.Unlock()
	l.puts.by[id] = append(l.puts.by[id], p)
}

// twice finds two acknowledged changes under one condition, of which the second overwrote what it had not seen.
func twice(puts []recordPut) string {
	seen := make(map[string]string)
	for _, p := range puts {
		if p.outcome != done {
			continue
		}
		if other, ok := seen[p.condition]; ok {
			return fmt.Sprintf("%s and %s were both acknowledged under If-Match: %s", other, p.name, p.condition)
		}
		seen[p.condition] = p.name
	}
	return ""
}

// checkRecords compares each tenant's record with the changes that were acknowledged.
func (l *load) checkRecords(t *testing.T) {
	acknowledged := 0
	for id, puts := range l.puts.by {
		if s := twice(puts); s != "" {
			t.Errorf("record of %s: %s", id, s)
		}
		possible, last := map[string]bool{}, recordPut{name: "c-" + id + "-d0"}
		for _, p := range puts {
			switch p.outcome {
			case unknown:
				possible[p.name] = true
			case done:
				acknowledged++
				if newer(p.etag, last.etag) {
					last = p
				}
			}
		}
		possible[last.name] = true
		got := l.f.replicas[0].operator(http.MethodGet, "/api/v1/tenants/"+id, nil)
		var now struct {
			DisplayName string `json:"display_name"`
		}
		if err := json.Unmarshal(got.body, &now); err != nil || !possible[now.DisplayName] {
			t.Errorf("lost: the record of %s is named %q, want one of %v: %d %s", id, now.DisplayName, possible, got.status, got.body)
		}
	}
	t.Logf("records: %d acknowledged changes under If-Match of %d tenants", acknowledged, len(l.puts.by))
}

// newer compares two ETags of one record, which are revisions.
func newer(a, b string) bool {
	a, b = strings.Trim(a, `"`), strings.Trim(b, `"`)
	return len(a) > len(b) || len(a) == len(b) && a > b
}
