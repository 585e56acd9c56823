package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// shelf is a folder of logs that a test writes without a drain.
type shelf struct {
	t    testing.TB
	dir  string
	now  time.Time
	tips map[string]map[string]Head // by log and chain
	sent map[string]int             // segments by log
	want map[string][]Record        // by chain, in the order of writing
}

func newShelf(t testing.TB) *shelf {
	return &shelf{t: t, dir: t.TempDir(), now: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC),
		tips: make(map[string]map[string]Head), sent: make(map[string]int), want: make(map[string][]Record)}
}

// write adds entries to the active file of a log, a second apart.
func (s *shelf) write(log string, entries ...Entry) {
	s.t.Helper()
	if s.tips[log] == nil {
		s.tips[log] = make(map[string]Head)
	}
	b := &batch{tips: s.tips[log], next: make(map[string]Head)}
	for _, e := range entries {
		s.now = s.now.Add(time.Second)
		e.Time, e.Replica = s.now, log
		b.add(e)
		s.want[e.Chain()] = append(s.want[e.Chain()], Record{e, b.next[e.Chain()].Seq})
	}
	maps.Copy(s.tips[log], b.next)
	f, err := os.OpenFile(s.path(log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(b.text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) path(log string) string { return filepath.Join(s.dir, log+".jsonl") }

// rotate closes a log's active file.
func (s *shelf) rotate(log string) string {
	s.t.Helper()
	s.sent[log]++
	path := filepath.Join(s.dir, segmentName(s.path(log), uint64(s.sent[log]), s.now))
	if err := os.Rename(s.path(log), path); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *shelf) reader() *Reader {
	s.t.Helper()
	r, err := NewReader(ReaderConfig{Dir: s.dir})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func teamQuery(id tenant.ID) Query { return Query{Tenant: id, TenantUID: "uid-" + string(id)} }

func teamEntry(id tenant.ID, action string) Entry {
	e := entry(id, action)
	if id != "" {
		e.TenantUID = "uid-" + string(id)
	}
	return e
}

// all reads every page.
func all(t testing.TB, r *Reader, q Query) (out []Record) {
	t.Helper()
	for {
		p, err := r.Query(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if p.Damaged > 0 {
			t.Fatalf("%d damaged lines", p.Damaged)
		}
		out = append(out, p.Records...)
		if q.Cursor = p.Next; p.Next == "" {
			return out
		}
	}
}

// newest returns what want holds of a chain, newest first, where keep says so.
func (s *shelf) newest(chain string, keep func(Record) bool) (out []Record) {
	for _, r := range slices.Backward(s.want[chain]) {
		if keep(r) {
			out = append(out, r)
		}
	}
	return out
}

func everything(Record) bool { return true }

func sameRecords(t testing.TB, name string, got, want []Record) {
	t.Helper()
	ids := func(all []Record) (out []string) {
		for _, r := range all {
			out = append(out, fmt.Sprintf("%s#%d@%s", r.Replica, r.Seq, r.Time.Format("15:04:05")))
		}
		return out
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %d records, want %d\n got %v\nwant %v", name, len(got), len(want), ids(got), ids(want))
	}
}

// filled returns a shelf of two replicas' logs with several segments each.
func filled(t testing.TB) *shelf {
	s := newShelf(t)
	rng := rand.New(rand.NewPCG(3, 4))
	actions := []string{"server.create", "server.delete", "mcp.call", "member.add"}
	for i := range 900 {
		log := []string{"audit-r1", "audit-r2"}[rng.IntN(2)]
		e := teamEntry([]tenant.ID{"team-a", "team-b", "team-c", ""}[rng.IntN(4)], actions[rng.IntN(4)])
		e.Principal = []string{"key:k1", "user:u1"}[rng.IntN(2)]
		e.RequestID = fmt.Sprintf("req-%d", i)
		if rng.IntN(3) == 0 {
			e.Decision, e.Outcome = Deny, "forbidden"
		}
		s.write(log, e)
		if i%100 == 99 {
			if _, err := os.Stat(s.path(log)); err == nil {
				s.rotate(log)
			}
		}
	}
	return s
}

func TestQuery(t *testing.T) {
	s := filled(t)
	r := s.reader()
	from, to := s.want["team-a"][20].Time, s.want["team-a"][90].Time
	for _, c := range []struct {
		name string
		q    Query
		keep func(Record) bool
	}{
		{"everything", teamQuery("team-a"), everything},
		{"another tenant", teamQuery("team-b"), everything},
		{"unknown tenant", teamQuery("team-x"), everything},
		{"half a name", teamQuery("team"), everything},
		{"the platform", Query{Platform: true}, everything},
		{"another uid", Query{Tenant: "team-a", TenantUID: "uid-old"}, func(Record) bool { return false }},
		{"any uid", Query{Tenant: "team-a", AnyUID: true}, everything},
		{"action", Query{Tenant: "team-a", AnyUID: true, Action: "server.create"}, func(r Record) bool { return r.Action == "server.create" }},
		{"prefix", Query{Tenant: "team-a", AnyUID: true, Action: "server.*"}, func(r Record) bool { return strings.HasPrefix(r.Action, "server.") }},
		{"any action", Query{Tenant: "team-a", AnyUID: true, Action: "*"}, everything},
		{"half an action", Query{Tenant: "team-a", AnyUID: true, Action: "server"}, func(Record) bool { return false }},
		{"principal", Query{Tenant: "team-a", AnyUID: true, Principal: "user:u1"}, func(r Record) bool { return r.Principal == "user:u1" }},
		{"outcome", Query{Tenant: "team-a", AnyUID: true, Outcome: "forbidden"}, func(r Record) bool { return r.Outcome == "forbidden" }},
		{"decision", Query{Tenant: "team-a", AnyUID: true, Decision: Allow}, func(r Record) bool { return r.Decision == Allow }},
		{"request", Query{Tenant: "team-a", AnyUID: true, RequestID: s.want["team-a"][3].RequestID}, func(r Record) bool { return r.RequestID == s.want["team-a"][3].RequestID }},
		{"from", Query{Tenant: "team-a", AnyUID: true, From: from}, func(r Record) bool { return !r.Time.Before(from) }},
		{"to", Query{Tenant: "team-a", AnyUID: true, To: to}, func(r Record) bool { return r.Time.Before(to) }},
		{"within", Query{Tenant: "team-a", AnyUID: true, From: from, To: to}, func(r Record) bool { return !r.Time.Before(from) && r.Time.Before(to) }},
	} {
		chain := string(c.q.Tenant)
		if c.q.Platform {
			chain = PlatformChain
		}
		for _, limit := range []int{7, 1, 0, 1000} {
			c.q.Limit = limit
			sameRecords(t, fmt.Sprintf("%s, %d a page", c.name, limit), all(t, r, c.q), s.newest(chain, c.keep))
		}
	}
}

// TestQueryShowsNoPredecessor: a tenant that was deleted and made again has another uid and sees none of the old records.
func TestQueryShowsNoPredecessor(t *testing.T) {
	s := newShelf(t)
	old := teamEntry("team-a", "server.create")
	old.TenantUID = "uid-old"
	s.write("audit", old, old, teamEntry("team-a", "server.create"), old)
	for _, q := range []Query{teamQuery("team-a"), {Tenant: "team-a", TenantUID: "uid-old"}} {
		sameRecords(t, q.TenantUID, all(t, s.reader(), q), s.newest("team-a", func(r Record) bool { return r.TenantUID == q.TenantUID }))
	}
}

func TestQueryRefuses(t *testing.T) {
	s := filled(t)
	r := s.reader()
	page := func(q Query) string {
		p, err := r.Query(t.Context(), q)
		if err != nil || p.Next == "" {
			t.Fatal(err, p)
		}
		return p.Next
	}
	q := teamQuery("team-a")
	q.Limit = 3
	good := page(q)
	other := teamQuery("team-b")
	other.Limit = 3
	for name, q := range map[string]Query{
		"nothing":             {},
		"no uid":              {Tenant: "team-a"},
		"tenant and platform": {Tenant: "team-a", AnyUID: true, Platform: true},
		"too many":            {Tenant: "team-a", AnyUID: true, Limit: 1001},
		"negative":            {Tenant: "team-a", AnyUID: true, Limit: -1},
		"no tenant's name":    {Tenant: `a","seq":`, AnyUID: true},
		"garbage cursor":      {Tenant: "team-a", TenantUID: "uid-team-a", Cursor: "x"},
		"another's cursor":    {Tenant: "team-b", TenantUID: "uid-team-b", Cursor: good},
		"another filter's":    {Tenant: "team-a", TenantUID: "uid-team-a", Action: "x", Cursor: good},
		"long cursor":         {Tenant: "team-a", TenantUID: "uid-team-a", Cursor: strings.Repeat("A", maxCursor+1)},
	} {
		if p, err := r.Query(t.Context(), q); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v; want it refused as invalid", name, p, err)
		}
	}
}

// TestQueryIsStable: between the pages of one listing, lines arrive, files rotate and are moved: nothing comes twice, and
// nothing is missing.
func TestQueryIsStable(t *testing.T) {
	s := filled(t)
	r := s.reader()
	want := s.newest("team-a", everything)
	q := teamQuery("team-a")
	q.Limit = 5
	var got []Record
	for i := 0; ; i++ {
		p, err := r.Query(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Records...)
		if q.Cursor = p.Next; p.Next == "" {
			break
		}
		log := []string{"audit-r1", "audit-r2", "audit-r3"}[i%3]
		s.write(log, teamEntry("team-a", "mcp.call"), teamEntry("team-b", "mcp.call"))
		if i%4 == 0 {
			s.rotate(log)
		}
		if i%5 == 0 {
			r = s.reader() // another replica answers
		}
	}
	sameRecords(t, "pages", got, want)
	sameRecords(t, "anew", all(t, r, teamQuery("team-a")), s.newest("team-a", everything))
}

// TestQueryIsBounded: a call stops when its budget is spent, and the next goes on from there.
func TestQueryIsBounded(t *testing.T) {
	s := filled(t)
	for _, c := range []struct {
		name string
		cfg  ReaderConfig
	}{
		{"bytes", ReaderConfig{Dir: s.dir, Bytes: 4 << 10}},
		{"one byte", ReaderConfig{Dir: s.dir, Bytes: 1}},
		{"time", ReaderConfig{Dir: s.dir, Budget: time.Nanosecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			removeIndexes(t, s.dir)
			r, err := NewReader(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			sameRecords(t, "all", all(t, r, teamQuery("team-a")), s.newest("team-a", everything))
			q := teamQuery("team-a")
			q.RequestID = "none"
			calls := 0
			for {
				p, err := r.Query(t.Context(), q)
				if err != nil || len(p.Records) > 0 {
					t.Fatal(p, err)
				}
				calls++
				if q.Cursor = p.Next; p.Next == "" {
					break
				}
				if !p.Partial {
					t.Fatal("an empty page that is not the last is not said to be partial")
				}
			}
			if calls < 2 {
				t.Error("one call read everything")
			}
		})
	}
}

// TestQueryTellsDamage: a line that is not what was written is counted and left out.
func TestQueryTellsDamage(t *testing.T) {
	s := newShelf(t)
	s.write("audit", teamEntry("team-a", "server.create"), teamEntry("team-a", "server.update"), teamEntry("team-a", "server.delete"))
	b, _ := os.ReadFile(s.path("audit"))
	if err := os.WriteFile(s.path("audit"), bytes.Replace(b, []byte("server.update"), []byte("server.upd4te"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := s.reader().Query(t.Context(), teamQuery("team-a"))
	if err != nil || len(p.Records) != 2 || p.Damaged != 1 {
		t.Errorf("page %+v, %v; want 2 records and 1 damaged", p, err)
	}
}

// TestQueryAfterACut: the active file was cut by a start after a crash and has grown again.
func TestQueryAfterACut(t *testing.T) {
	s := newShelf(t)
	r := s.reader()
	s.write("audit", teamEntry("team-a", "server.create"), teamEntry("team-b", "server.create"), teamEntry("team-a", "server.delete"))
	sameRecords(t, "before", all(t, r, teamQuery("team-a")), s.newest("team-a", everything))
	b, _ := os.ReadFile(s.path("audit"))
	l := lines(b)
	if err := os.WriteFile(s.path("audit"), bytes.Join(l[:1], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.want["team-a"][0]
	p, _ := ParseLine(bytes.TrimSuffix(l[0], []byte("\n")))
	s.tips["audit"] = map[string]Head{"team-a": p.Head()}
	s.want = map[string][]Record{"team-a": {first}}
	for range 5 {
		s.write("audit", teamEntry("team-a", "server.update-some-more"))
	}
	sameRecords(t, "after", all(t, r, teamQuery("team-a")), s.newest("team-a", everything))
}

func TestQueryOfAnEmptyFolder(t *testing.T) {
	s := newShelf(t)
	if p, err := s.reader().Query(t.Context(), teamQuery("team-a")); err != nil || p.Records == nil || p.Next != "" || p.Partial {
		t.Errorf("page %+v, %v; want an empty one", p, err)
	}
	r, _ := NewReader(ReaderConfig{Dir: filepath.Join(s.dir, "no")})
	if _, err := r.Query(t.Context(), teamQuery("team-a")); err == nil {
		t.Error("a missing folder is no error")
	}
}

func TestEach(t *testing.T) {
	s := filled(t)
	var got []Record
	if err := s.reader().Each(t.Context(), teamQuery("team-a"), func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	sameRecords(t, "Each", got, s.newest("team-a", everything))
	stop := errors.New("stop")
	if err := s.reader().Each(t.Context(), teamQuery("team-a"), func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Each = %v, want the error of f", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.reader().Each(ctx, teamQuery("team-a"), func(Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Each after the end of its context = %v", err)
	}
}

// TestQueryBesideTheDrain reads while the log is written and rotated: a listing holds each record before it once.
func TestQueryBesideTheDrain(t *testing.T) {
	r := newRig(t)
	r.path = filepath.Join(filepath.Dir(r.path), "audit.jsonl")
	r.edit = rotating(nil)
	r.open()
	reader, err := NewReader(ReaderConfig{Dir: filepath.Dir(r.path)})
	if err != nil {
		t.Fatal(err)
	}
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for range 150 {
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
		}
	}()
	for more, last := true, 0; more; {
		select {
		case <-writing:
			more = false
		default:
		}
		got := all(t, reader, Query{Tenant: "team-a", AnyUID: true, Limit: 9})
		for i, rec := range got {
			if rec.Seq != uint64(len(got)-i) {
				t.Fatalf("record %d of %d has the number %d", i, len(got), rec.Seq)
			}
		}
		if len(got) < last {
			t.Fatalf("%d records, and %d before", len(got), last)
		}
		last = len(got)
	}
	if got := all(t, reader, Query{Tenant: "team-a", AnyUID: true}); len(got) != 150 {
		t.Errorf("%d records, want 150", len(got))
	}
}

// TestQueriesAtOnce: many queries share one reader while the log is written and rotated.
func TestQueriesAtOnce(t *testing.T) {
	s := filled(t)
	r := s.reader()
	want := s.newest("team-b", everything)
	failed := make(chan error)
	const readers = 8
	for i := range readers {
		go func() {
			failed <- func() error {
				for range 6 {
					var got []Record
					q := teamQuery("team-b")
					if i%2 == 0 {
						q.Action = "*"
					}
					if err := r.Each(t.Context(), q, func(rec Record) error { got = append(got, rec); return nil }); err != nil {
						return err
					}
					if !slices.Equal(got, want) {
						return fmt.Errorf("%d records, want %d", len(got), len(want))
					}
				}
				return nil
			}()
		}()
	}
	for i := range 10 {
		s.write("audit-r1", teamEntry("team-a", "mcp.call"))
		if i%3 == 0 {
			s.rotate("audit-r1")
		}
	}
	for range readers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
