package audit

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func verify(t *testing.T, text []byte, heads map[string]Head) *Report {
	t.Helper()
	r, err := Verify(bytes.NewReader(text), heads)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return r
}

func lines(text []byte) [][]byte { return slices.Collect(bytes.Lines(text)) }

func TestVerifyGood(t *testing.T) {
	text, heads := chainUp(30, "team-a", "team-b", "")
	r := verify(t, text, heads)
	if !r.OK || r.Lines != 30 || len(r.Chains) != 3 || r.TornBytes != 0 || len(r.Problems()) != 0 {
		t.Fatalf("report %+v, want OK with 30 lines of 3 chains", r)
	}
	if c := r.Chains[PlatformChain]; c.Lines != 10 || c.Unanchored != 0 || c.NoAnchor || c.Last != heads[PlatformChain] {
		t.Errorf("platform's chain %+v, want 10 lines, all anchored", c)
	}
	if r := verify(t, text, nil); !r.OK || r.Chains["team-a"].NoAnchor {
		t.Errorf("without heads: %+v, want OK", r)
	}
	if r := verify(t, nil, nil); !r.OK {
		t.Errorf("empty log: %+v, want OK", r)
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	text, heads := chainUp(12, "team-a", "team-b") // team-a has lines 1, 3, 5 …
	forged := Head{Seq: 2, Hash: [32]byte{1}}.Next("team-a", []byte(`{"id":"forged"}`))
	edit := func(f func([][]byte) [][]byte) []byte { return bytes.Join(f(lines(bytes.Clone(text))), nil) }
	cases := []struct {
		name string
		text []byte
		want string
	}{
		{"flip in an entry", edit(func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte("admin"), []byte("adm1n"), 1)
			return l
		}), "chain team-a, line 5, record 3: altered"},
		{"drop", edit(func(l [][]byte) [][]byte { return slices.Delete(l, 4, 5) }), "chain team-a, line 6, record 4: dropped: records 3 to 3"},
		{"drop the first", edit(func(l [][]byte) [][]byte { return l[1:] }), "chain team-a, line 2, record 2: dropped: records 1 to 1"},
		{"reorder", edit(func(l [][]byte) [][]byte { l[4], l[6] = l[6], l[4]; return l }), "chain team-a, line 5, record 4: dropped"},
		{"repeat", edit(func(l [][]byte) [][]byte { return slices.Insert(l, 5, l[4]) }), "chain team-a, line 6, record 3: repeated"},
		{"repeat an old one", edit(func(l [][]byte) [][]byte { return slices.Insert(l, 8, l[0]) }), "chain team-a, line 9, record 1: out of order"},
		{"insert", edit(func(l [][]byte) [][]byte { return slices.Insert(l, 4, AppendLine(nil, forged)) }), "chain team-a, line 5, record 3: replaced"},
		{"cut", edit(func(l [][]byte) [][]byte { return l[:10] }), "chain team-a, at the end: cut: it ends with record 5, and record 6 was anchored"},
		{"cut a newline", text[:len(text)-1], "chain team-b, at the end: cut: it ends with record 5"},
		{"remove a chain", edit(func(l [][]byte) [][]byte {
			return slices.DeleteFunc(l, func(b []byte) bool { return bytes.Contains(b, []byte(`"chain":"team-b"`)) })
		}), "chain team-b, at the end: cut: all of its 6 anchored records are missing"},
		{"remove all", nil, "chain team-a, at the end: cut: all of its 6"},
		{"not a record", edit(func(l [][]byte) [][]byte { return slices.Insert(l, 2, []byte("hello\n")) }), "line 3: not an audit record"},
		{"a line without end", append(bytes.Repeat([]byte("x"), 10<<20), append([]byte("\n"), text...)...), "line 1: not an audit record: longer than"},
		{"rename the chain", bytes.ReplaceAll(text, []byte(`"chain":"team-a"`), []byte(`"chain":"team-c"`)), "chain team-c, line 1, record 1: altered"},
	}
	for _, c := range cases {
		r := verify(t, c.text, heads)
		if got := strings.Join(r.Problems(), "\n"); r.OK || !strings.Contains(got, c.want) {
			t.Errorf("%s: OK=%v, problems:\n%s\nwant %q", c.name, r.OK, got, c.want)
		}
	}
}

// TestVerifyWholeChainRewritten: who can write the file can make a chain that is sound in itself. Only the anchor tells.
func TestVerifyWholeChainRewritten(t *testing.T) {
	_, heads := chainUp(5, "team-a")
	forged, tip := []byte(nil), Head{}
	for range 5 {
		l := tip.Next("team-a", []byte(`{"id":"forged"}`))
		forged, tip = AppendLine(forged, l), l.Head()
	}
	if r := verify(t, forged, nil); !r.OK {
		t.Fatalf("the forged chain is not sound: %v", r.Problems())
	}
	if r := verify(t, forged, heads); r.OK || !strings.Contains(r.Chains["team-a"].Bad.Why, "rewritten") {
		t.Errorf("report %+v, want it rewritten", r.Chains["team-a"])
	}
}

func TestVerifyBeyondTheAnchor(t *testing.T) {
	text, _ := chainUp(9, "team-a")
	early, heads := chainUp(6, "team-a")
	if !bytes.HasPrefix(text, early) {
		t.Fatal("chainUp is not deterministic")
	}
	if r := verify(t, text, heads); !r.OK || r.Chains["team-a"].Unanchored != 3 {
		t.Errorf("report %+v, want OK and 3 lines not yet anchored", r)
	}
	l := lines(text)
	if r := verify(t, bytes.Join(slices.Delete(slices.Clone(l), 7, 8), nil), heads); r.OK {
		t.Error("a line beyond the anchored head that does not chain on is accepted")
	}
	torn := text[:len(text)-10]
	if r := verify(t, torn, heads); !r.OK || r.TornBytes != int64(len(l[8])-10) || r.Chains["team-a"].Unanchored != 2 {
		t.Errorf("torn: report %+v, want OK with a torn tail of %d bytes", r, len(l[8])-10)
	}
	if r := verify(t, text, map[string]Head{}); !r.OK || !r.Chains["team-a"].NoAnchor || r.Chains["team-a"].Unanchored != 9 {
		t.Errorf("no anchor: report %+v, want it said", r.Chains["team-a"])
	}
}

// TestVerifyFindsEveryMutation damages a good log in 10,000 random ways (X56).
func TestVerifyFindsEveryMutation(t *testing.T) {
	good, heads := chainUp(40, "team-a", "team-b", "team-c", "")
	rng := rand.New(rand.NewPCG(1, 2))
	want := byChain(good)
	done := 0
	for done < 10_000 {
		name, bad := mutate(rng, good)
		if maps.Equal(byChain(bad), want) { // nothing, or the order between chains, which is not promised
			continue
		}
		done++
		if r := verify(t, bad, heads); r.OK {
			t.Fatalf("mutation %d (%s) is not found", done, name)
		}
	}
}

// byChain returns the text of each chain, and of what is none.
func byChain(text []byte) map[string]string {
	out := make(map[string]string)
	for line := range bytes.Lines(text) {
		l, _ := ParseLine(bytes.TrimSuffix(line, []byte("\n")))
		out[l.Chain] += string(line)
	}
	return out
}

func mutate(rng *rand.Rand, good []byte) (string, []byte) {
	l := lines(bytes.Clone(good))
	i, j := rng.IntN(len(l)), rng.IntN(len(l))
	switch rng.IntN(9) {
	case 0:
		b := bytes.Clone(good)
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		return "flip a bit", b
	case 1:
		b := bytes.Clone(good)
		b[rng.IntN(len(b))] = byte(rng.IntN(256))
		return "replace a byte", b
	case 2:
		at := rng.IntN(len(good))
		return "remove a byte", slices.Delete(bytes.Clone(good), at, at+1)
	case 3:
		return "insert a byte", slices.Insert(bytes.Clone(good), rng.IntN(len(good)), byte(rng.IntN(256)))
	case 4:
		return "cut", good[:rng.IntN(len(good))]
	case 5:
		return "drop lines", bytes.Join(slices.Delete(l, min(i, j), max(i, j)), nil)
	case 6:
		return "repeat a line", bytes.Join(slices.Insert(l, j, l[i]), nil)
	case 7:
		l[i], l[j] = l[j], l[i]
		return "swap lines", bytes.Join(l, nil)
	}
	p, _ := ParseLine(bytes.TrimSuffix(l[i], []byte("\n")))
	forged := Head{p.Seq - 1, p.Prev}.Next(p.Chain, []byte(`{"id":"forged"}`))
	if rng.IntN(2) == 0 {
		l[i] = AppendLine(nil, forged)
		return "rewrite a line", bytes.Join(l, nil)
	}
	return "insert a line", bytes.Join(slices.Insert(l, i, AppendLine(nil, forged)), nil)
}

func TestVerifyFailedRead(t *testing.T) {
	text, _ := chainUp(3, "team-a")
	if _, err := Verify(io.MultiReader(bytes.NewReader(text), failing{}), nil); err == nil {
		t.Error("a failed read is not an error")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func FuzzVerify(f *testing.F) {
	text, heads := chainUp(6, "team-a", "")
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(bytes.NewReader(b), heads)
		if err != nil {
			t.Fatal(err)
		}
		have := byChain(b)
		for chain, want := range byChain(text) {
			if r.OK && !strings.HasPrefix(have[chain], want) {
				t.Errorf("OK, but chain %s is\n%s\nwant\n%s", chain, have[chain], want)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	text, heads := chainUp(1000, "team-a", "team-b")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if r, err := Verify(bytes.NewReader(text), heads); err != nil || !r.OK {
			b.Fatal(err)
		}
	}
}
