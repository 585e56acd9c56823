package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// collect returns "chain/seq" of each line, and "bad" for what is none.
func collect(t *testing.T, cfg TailConfig) (out []string) {
	t.Helper()
	for l, err := range Tail(t.Context(), cfg) {
		switch {
		case errors.Is(err, ErrMalformed):
			out = append(out, "bad")
		case err != nil:
			t.Fatal(err)
		default:
			out = append(out, fmt.Sprintf("%s/%d", l.Chain, l.Seq))
		}
	}
	return out
}

func TestTail(t *testing.T) {
	text, _ := chainUp(9, "team-a", "team-b", "")
	bad := bytes.Replace(text, []byte(`"seq":3`), []byte(`"seq":x`), 1) // team-a's third
	long := append(append(bytes.Clone(text), bytes.Repeat([]byte("x"), 3*MaxLine)...), '\n')
	for _, c := range []struct {
		name  string
		text  []byte
		n     int
		chain string
		want  string
	}{
		{"none", text, 0, "", ""},
		{"last 2", text, 2, "", "team-b/3 _platform/3"},
		{"more than there are", text, 100, "team-a", "team-a/1 team-a/2 team-a/3"},
		{"one chain", text, 2, "team-b", "team-b/2 team-b/3"},
		{"unknown chain", text, 2, "team-c", ""},
		{"half a name", text, 2, "team", ""},
		{"unfinished line", text[:len(text)-5], 2, "", "team-a/3 team-b/3"},
		{"damaged line", bad, 3, "", "bad team-b/3 _platform/3"},
		{"a line without end", long, 2, "", "_platform/3 bad"},
		{"empty", nil, 2, "", ""},
		{"only a newline", []byte("\n"), 2, "", "bad"},
		{"no newline", []byte("x"), 2, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(collect(t, TailConfig{Path: path, Lines: c.n, Chain: c.chain}), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTailOfALongLog(t *testing.T) {
	text, _ := chainUp(2000, "team-a", "team-b") // many blocks
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got := collect(t, TailConfig{Path: path, Lines: 900, Chain: "team-b"})
	if len(got) != 900 || got[0] != "team-b/101" || got[899] != "team-b/1000" {
		t.Errorf("%d lines from %s to %s, want 900 from 101 to 1000", len(got), got[0], got[len(got)-1])
	}
}

func TestTailMissing(t *testing.T) {
	for _, err := range Tail(t.Context(), TailConfig{Path: filepath.Join(t.TempDir(), "no"), Lines: 1}) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v, want ErrNotExist", err)
		}
		return
	}
	t.Error("no error")
}

func TestTailFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.log")
		text, _ := chainUp(8, "team-a")
		l := lines(text)
		put := func(parts ...[]byte) {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = f.Write(bytes.Join(parts, nil))
			_ = f.Close()
		}
		put(l[0], l[1])
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for l, err := range Tail(ctx, TailConfig{Path: path, Lines: 1, Follow: true}) {
				got = append(got, fmt.Sprint(l.Seq, err == nil))
			}
		}()
		poll := func() { time.Sleep(time.Second); synctest.Wait() }
		poll()
		put(l[2], l[3][:20])
		poll()
		put(l[3][20:])
		poll()
		put(l[4]) // the old file's last line, written just before it is moved
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		poll()
		put(l[5])
		poll()
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		poll()
		put(l[6])
		poll()
		cancel()
		<-done
		if want := []string{"2 true", "3 true", "4 true", "5 true", "6 true", "7 true"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestTailAndVerifyBesideTheDrain: both work on a log that is being written, and see nothing that is not whole.
func TestTailAndVerifyBesideTheDrain(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	r.d.cfg.Interval = time.Millisecond
	go func() { ended <- r.d.Run(ctx) }()
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for range 300 {
			r.out.commit("team-a", "server.create")
			r.buf.Record(entry("team-b", "mcp.call"))
		}
	}()
	for l, err := range Tail(ctx, TailConfig{Path: r.path, Lines: 10, Chain: "team-a", Follow: true, Poll: time.Millisecond}) {
		if err != nil {
			t.Fatal(err)
		}
		heads, _ := r.out.OwnHeads(ctx)
		if rep := verify(t, r.text(), heads); !rep.OK {
			t.Fatalf("while it is written: %v", rep.Problems())
		}
		if l.Seq == 300 {
			break
		}
	}
	<-writing
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	r.sound()
}
