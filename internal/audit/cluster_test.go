package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// lan is replicas that answer each other.
type lan struct {
	t       *testing.T
	nodes   map[string]*Cluster
	dirs    map[string]string
	away    map[string]bool
	writers []string
	seq     int
	heads   map[string]Head
}

func newLAN(t *testing.T, names ...string) *lan {
	l := &lan{t: t, nodes: make(map[string]*Cluster), dirs: make(map[string]string), away: make(map[string]bool), heads: make(map[string]Head)}
	for _, name := range names {
		l.dirs[name] = t.TempDir()
		l.add(name)
	}
	return l
}

func (l *lan) add(name string) {
	reader, err := NewReader(ReaderConfig{Dir: l.dirs[name]})
	if err != nil {
		l.t.Fatal(err)
	}
	l.nodes[name], err = NewCluster(ClusterConfig{
		Self: name, Reader: reader,
		Live: func() (out []string) {
			for n := range l.nodes {
				out = append(out, n)
			}
			return out
		},
		Call: func(ctx context.Context, replica string, body []byte) ([]byte, error) {
			if l.away[replica] || l.nodes[replica] == nil {
				return nil, fault.New(fault.Unavailable, "no answer")
			}
			return l.nodes[replica].Handle(ctx, name, body)
		},
		Writers: func(context.Context, string) ([]string, error) { return l.writers, nil }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// write appends a record to the log of a writer in a folder. It returns the record's id.
func (l *lan) write(dir, writer string, id tenant.ID) string {
	e := entry(id, "server.create")
	l.seq++
	e.ID, e.Time = fmt.Sprintf("entry-%04d", l.seq), time.Date(2026, 8, 1, 10, 0, l.seq, 0, time.UTC)
	e.TenantUID, e.Replica = "uid", writer
	chain := ChainName(e.Chain(), writer)
	line := l.heads[dir+chain].Next(chain, EncodeEntry(e))
	l.heads[dir+chain] = line.Head()
	f, err := os.OpenFile(filepath.Join(dir, "audit.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	_, err = f.Write(AppendLine(nil, line))
	if err := errors.Join(err, f.Close()); err != nil {
		l.t.Fatal(err)
	}
	return e.ID
}

// pages reads a listing to its end.
func (l *lan) pages(asks string, q Query, each func(page int)) (ids []string, incomplete [][]string) {
	l.t.Helper()
	for n := 0; ; n++ {
		p, err := l.nodes[asks].Query(l.t.Context(), q)
		if err != nil {
			l.t.Fatalf("Query: %v", err)
		}
		for _, r := range p.Records {
			ids = append(ids, r.ID)
		}
		incomplete = append(incomplete, p.Incomplete)
		if q.Cursor = p.Next; p.Next == "" {
			return ids, incomplete
		}
		if n > 1000 {
			l.t.Fatal("the listing has no end")
		}
		if each != nil {
			each(n)
		}
	}
}

func ofTeamA() Query { return Query{Tenant: "team-a", TenantUID: "uid", Limit: 7} }

// TestClusterMerges: whoever is asked, the records of all replicas come newest first, once each, also while more are written.
func TestClusterMerges(t *testing.T) {
	l := newLAN(t, "r1", "r2", "Node_3.example")
	names := []string{"r1", "r2", "Node_3.example"}
	var want []string
	for i := range 60 {
		name := names[i*i%3]
		want = append(want, l.write(l.dirs[name], name, "team-a"))
		l.write(l.dirs[name], name, "team-b")
	}
	l.writers = names
	slices.Reverse(want)
	for _, asks := range names {
		got, incomplete := l.pages(asks, ofTeamA(), func(int) { l.write(l.dirs["r1"], "r1", "team-a") })
		if first := slices.Index(got, want[0]); first < 0 || !slices.Equal(got[first:], want) {
			t.Errorf("%s: got %v\nwant %v", asks, got, want)
		}
		for _, names := range incomplete {
			if len(names) > 0 {
				t.Errorf("%s: incomplete %v", asks, names)
			}
		}
		all, _ := l.pages(asks, Query{Tenant: "team-a", TenantUID: "uid", Limit: 1000}, nil)
		want = all
	}
}

// TestClusterAway: a replica that does not answer is named on every page, and a listing that it drops out of ends.
func TestClusterAway(t *testing.T) {
	l := newLAN(t, "r1", "r2", "r3")
	for range 20 {
		for name, dir := range l.dirs {
			l.write(dir, name, "team-a")
		}
	}
	l.writers = []string{"r1", "r2", "r3"}
	l.away["r3"] = true
	got, incomplete := l.pages("r1", ofTeamA(), nil)
	if len(got) != 40 {
		t.Errorf("%d records, want those of two replicas", len(got))
	}
	for i, names := range incomplete {
		if !slices.Equal(names, []string{"r3"}) {
			t.Errorf("page %d: incomplete %v, want r3", i, names)
		}
	}
	l.away["r3"] = false
	got, incomplete = l.pages("r1", ofTeamA(), func(page int) { l.away["r2"] = page >= 1 })
	if len(got) >= 60 || !slices.Equal(incomplete[len(incomplete)-1], []string{"r2"}) {
		t.Errorf("%d records, at the end incomplete %v, want r2 to be missing", len(got), incomplete[len(incomplete)-1])
	}
	l.away["r2"] = false
	got, _ = l.pages("r1", ofTeamA(), func(page int) { l.away["r2"] = page == 1 })
	if slices.Sort(got); len(slices.Compact(got)) != 60 {
		t.Errorf("%d records once r2 is back, want all 60", len(got))
	}
	l.away["r2"] = false
	delete(l.nodes, "r3") // gone for good; its name is in the registry's heads
	if _, incomplete = l.pages("r1", ofTeamA(), nil); !slices.Equal(incomplete[0], []string{"r3"}) {
		t.Errorf("incomplete %v, want r3", incomplete)
	}
	if err := l.nodes["r1"].Each(t.Context(), ofTeamA(), func(Record) error { return nil }); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Each: %v, want it to say that records are missing", err)
	}
	b, err := os.ReadFile(filepath.Join(l.dirs["r3"], "audit.jsonl"))
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dirs["r2"], "audit-r3.jsonl"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, incomplete = l.pages("r1", ofTeamA(), nil); len(got) != 60 || len(incomplete[0]) > 0 {
		t.Errorf("%d records, incomplete %v; want all, since r2 has r3's log", len(got), incomplete[0])
	}
}

// TestClusterSharedFolder: replicas that read the same folder do not show a record twice.
func TestClusterSharedFolder(t *testing.T) {
	l := newLAN(t, "r1", "r2")
	l.dirs["r2"] = l.dirs["r1"]
	l.add("r2")
	for range 25 {
		l.write(l.dirs["r1"], "r1", "team-a")
	}
	got, _ := l.pages("r2", ofTeamA(), nil)
	if n := len(got); n != 25 || len(slices.Compact(got)) != n {
		t.Errorf("%d records, want 25", n)
	}
}

// TestClusterOldLog: chains of the time before there were other replicas are found beside those with names; if nobody has them,
// that is said.
func TestClusterOldLog(t *testing.T) {
	l := newLAN(t, "r1", "r2")
	for range 5 {
		l.write(l.dirs["r1"], "", "team-a")
	}
	for range 5 {
		l.write(l.dirs["r1"], "r1", "team-a")
	}
	l.writers = []string{"", "r1"}
	if got, incomplete := l.pages("r2", ofTeamA(), nil); len(got) != 10 || len(incomplete[0]) > 0 {
		t.Errorf("%d records, incomplete %v; want 10", len(got), incomplete)
	}
	l.away["r1"] = true
	if got, incomplete := l.pages("r2", ofTeamA(), nil); len(got) != 0 || !slices.Equal(incomplete[0], []string{AwayAlone, "r1"}) {
		t.Errorf("%d records, incomplete %v; want both to be missed", len(got), incomplete)
	}
}

// TestClusterIsolation: neither a cursor of another query nor a replica's call leads to another tenant's records.
func TestClusterIsolation(t *testing.T) {
	l := newLAN(t, "r1", "r2")
	for range 20 {
		l.write(l.dirs["r1"], "r1", "team-a")
		l.write(l.dirs["r2"], "r2", "team-b")
	}
	p, err := l.nodes["r1"].Query(t.Context(), ofTeamA())
	if err != nil || p.Next == "" {
		t.Fatalf("Query: %v", err)
	}
	other := Query{Tenant: "team-b", TenantUID: "uid", Limit: 7, Cursor: p.Next}
	for _, cursor := range []string{p.Next, "x", p.Next[:len(p.Next)-4], "bnVsbA"} {
		other.Cursor = cursor
		if _, err := l.nodes["r1"].Query(t.Context(), other); fault.KindOf(err) != fault.Invalid {
			t.Errorf("cursor %.20q: %v, want it refused", cursor, err)
		}
	}
	for _, body := range []string{"", "{}", `{"v":9}`, `{"v":1,"query":{}}`, `{"v":1,"query":{"Tenant":"team-a@r1","AnyUID":true}}`} {
		if b, err := l.nodes["r1"].Handle(t.Context(), "r2", []byte(body)); err == nil || bytes.Contains(b, []byte("entry-")) {
			t.Errorf("call %q was answered: %.80s", body, b)
		}
	}
}

func FuzzClusterCursor(f *testing.F) {
	f.Add("eyJ2IjoxLCJxIjoiIiwiYXQiOnsicjEiOiJ4In19")
	f.Fuzz(func(t *testing.T, cursor string) {
		q := ofTeamA()
		q.Cursor = cursor
		c := &Cluster{ClusterConfig{Self: "r1", Live: func() []string { return nil }}}
		if s, _, err := c.sources(q); err == nil && len(s) == 0 {
			t.Error("nobody is asked")
		}
	})
}
