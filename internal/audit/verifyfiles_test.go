package audit

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// signedLog writes a log of several segments with checkpoints within them, all anchored, and returns the content of its
// files in order, their heads and the keys.
func signedLog(t testing.TB, segments int) (files [][]byte, heads map[string]Head, keys []ed25519.PublicKey) {
	t.Helper()
	signer, keys := testSigner(t, 1)
	s := scribe{chain: CheckpointChain, signer: signer, note: func(action, _ string) Entry {
		e := entry("", action)
		e.Resource, e.Replica = "", "r1"
		return e
	}}
	tips := make(map[string]Head)
	for i := range segments {
		b := &batch{tips: tips, next: make(map[string]Head)}
		name := ""
		if i > 0 {
			name = fmt.Sprintf("audit.%08d.20260801T100000Z.jsonl", i)
		}
		lines, err := s.header(tips[CheckpointChain], tips, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			b.put(l)
		}
		for j := range 9 {
			b.add(entry([]tenant.ID{"team-a", "team-b", ""}[(i+j)%3], "server.create"))
			if j == 4 {
				now := maps.Clone(tips)
				maps.Copy(now, b.next)
				l, err := s.checkpoint(b.tip(CheckpointChain), now, false, "")
				if err != nil {
					t.Fatal(err)
				}
				b.put(l)
			}
		}
		maps.Copy(tips, b.next)
		files = append(files, b.text)
	}
	return files, tips, keys
}

// verifyAll verifies files that exist only in memory.
func verifyAll(t testing.TB, files [][]byte, opts VerifyOptions) *Report {
	t.Helper()
	v := newVerifier(opts)
	for i, f := range files {
		if err := v.read(bytes.NewReader(f), fmt.Sprintf("file-%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	return v.finish()
}

// TestX56VerifyFindsEveryMutation damages a signed log of several segments in 10,000 random ways: within lines, over the
// boundaries of segments, and by whole segments.
func TestX56VerifyFindsEveryMutation(t *testing.T) {
	t.Parallel()
	good, heads, keys := signedLog(t, 5)
	opts := VerifyOptions{Heads: heads, PublicKeys: keys}
	if rep := verifyAll(t, good, opts); !rep.OK || rep.Checkpoints.Signed != 10 || rep.Lines != 5*(9+2)+4 {
		t.Fatalf("the good log: %+v %v", rep, rep.Problems())
	}
	want := byChain(bytes.Join(good, nil))
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := make(map[string]int)
	all := 10_000
	if testing.Short() {
		all = 1000
	}
	for done := 0; done < all; {
		name, bad := mutateFiles(rng, good)
		if maps.Equal(byChain(bytes.Join(bad, nil)), want) {
			continue // nothing, or the order between chains, or of files whose chains do not meet
		}
		done++
		kinds[name]++
		if rep := verifyAll(t, bad, opts); rep.OK || len(rep.Problems()) == 0 {
			t.Fatalf("mutation %d (%s) is not found", done, name)
		}
	}
	t.Logf("%v", kinds)
}

func mutateFiles(rng *rand.Rand, good [][]byte) (string, [][]byte) {
	bad := slices.Clone(good)
	i, j := rng.IntN(len(bad)), rng.IntN(len(bad))
	switch rng.IntN(8) {
	case 0:
		return "drop a segment", slices.Delete(bad, i, i+1)
	case 1:
		bad[i], bad[j] = bad[j], bad[i]
		return "swap segments", bad
	case 2:
		return "repeat a segment", slices.Insert(bad, j, bad[i])
	case 3:
		return "remove the newest", bad[:len(bad)-1-rng.IntN(2)]
	case 4:
		bad[i] = nil
		return "empty a segment", bad
	case 5:
		if i+1 == len(bad) {
			i--
		}
		l := lines(bad[i+1])
		n := 1 + rng.IntN(3)
		bad[i] = slices.Concat(bad[i], bytes.Join(l[:n], nil))
		bad[i+1] = bytes.Join(append(slices.Clone(l[n:]), l[rng.IntN(len(l))]), nil)
		return "shift the boundary", bad
	}
	name, text := mutate(rng, bad[i])
	bad[i] = text
	return name, bad
}

// TestVerifyFilesNamesWhatIsWrong holds the wording of what only files and checkpoints can have.
func TestVerifyFilesNamesWhatIsWrong(t *testing.T) {
	files, heads, keys := signedLog(t, 4)
	_, other := testSigner(t, 2)
	resign := func(edit func(*checkpointEntry)) [][]byte { // forge the newest file from its checkpoint on, hashes and all
		out := slices.Clone(files)
		var text []byte
		var tip Head
		for _, raw := range lines(files[3]) {
			l, _ := ParseLine(bytes.TrimSuffix(raw, []byte("\n")))
			if l.Chain == CheckpointChain {
				if e, err := parseCheckpoint(l.Entry); err == nil && e.Checkpoint != nil {
					edit(e)
					l.Entry = e.encode()
				}
				if tip.Seq == 0 {
					tip = Head{l.Seq - 1, l.Prev}
				}
				l = tip.Next(CheckpointChain, l.Entry)
				tip = l.Head()
			}
			text = AppendLine(text, l)
		}
		out[3] = text
		return out
	}
	for _, c := range []struct {
		name  string
		files [][]byte
		opts  VerifyOptions
		want  string // "" = OK
	}{
		{"good", files, VerifyOptions{Heads: heads, PublicKeys: keys}, ""},
		{"good, no heads", files, VerifyOptions{PublicKeys: keys}, ""},
		{"good, neither", files, VerifyOptions{}, ""},
		{"other key", files, VerifyOptions{PublicKeys: other}, "chain _checkpoint, file-1 line 1, record 1: wrongly signed checkpoint"},
		{"unsigned", resign(func(e *checkpointEntry) { e.Checkpoint.Sig = nil }), VerifyOptions{PublicKeys: keys}, "unsigned checkpoint"},
		{"other time", resign(func(e *checkpointEntry) { e.Time = e.Time.Add(1) }), VerifyOptions{PublicKeys: keys}, "file-4 line 2, record 10: wrongly signed"},
		{"other replica", resign(func(e *checkpointEntry) { e.Replica = "r2" }), VerifyOptions{PublicKeys: keys}, "file-4 line 2, record 10: wrongly signed"},
		{"other previous", resign(func(e *checkpointEntry) { e.Checkpoint.Previous = "x" }), VerifyOptions{PublicKeys: keys}, "file-4 line 2, record 10: wrongly signed"},
		{"other heads, no keys", resign(func(e *checkpointEntry) { e.Checkpoint.Root = strings.Repeat("0", 64) }), VerifyOptions{}, "does not fit the heads"},
		{"middle gone", [][]byte{files[0], files[2], files[3]}, VerifyOptions{}, "chain _checkpoint, file-2 line 1, record 6: dropped: records 3 to 5"},
		{"newest gone", files[:3], VerifyOptions{Heads: heads}, "at the end: cut"},
		{"torn in the middle", [][]byte{files[0][:len(files[0])-5], files[1], files[2], files[3]}, VerifyOptions{}, "ends in the midst of a line"},
		{"first gone", files[1:], VerifyOptions{Heads: heads, PublicKeys: keys}, "cut at the start: the log begins with checkpoint 4"},
		{"first gone, a part", files[1:], VerifyOptions{Heads: heads, PublicKeys: keys, Part: true}, ""},
		{"half a header", [][]byte{bytes.Join(lines(files[1])[1:], nil), files[2], files[3]}, VerifyOptions{Part: true}, "does not fit the heads"},
		{"start at another checkpoint", [][]byte{bytes.Join(lines(files[1])[7:], nil), files[2], files[3]}, VerifyOptions{Part: true}, "it lists no heads"},
		{"a chain cut, no heads", [][]byte{files[0], files[1], withoutChain(files[2], "team-b"), withoutChain(files[3], "team-b")}, VerifyOptions{PublicKeys: keys}, "the records before it are not those it vouches for"},
		{"a chain added, no heads", [][]byte{append(AppendLine(nil, Head{}.Next("team-x", []byte(`{"id":"1"}`))), files[0]...)}, VerifyOptions{PublicKeys: keys}, "the records before it are not those it vouches for"},
		{"no checkpoint", [][]byte{withoutChain(files[0], CheckpointChain)}, VerifyOptions{PublicKeys: keys}, "there is no checkpoint at all"},
	} {
		rep := verifyAll(t, c.files, c.opts)
		got := strings.Join(rep.Problems(), "\n")
		if rep.OK != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: OK=%v, problems:\n%s\nwant %q", c.name, rep.OK, got, c.want)
		}
	}
}

func withoutChain(text []byte, chain string) []byte {
	return bytes.Join(slices.DeleteFunc(lines(text), func(b []byte) bool { return bytes.HasPrefix(b, []byte(partChain+chain+`"`)) }), nil)
}

// TestCheckpointVouchesForAForger: who can write the file and the registry can make every hash fit, but not the signature.
func TestCheckpointVouchesAgainstAForger(t *testing.T) {
	files, _, keys := signedLog(t, 3)
	var text []byte
	tips := make(map[string]Head)
	for _, raw := range lines(bytes.Join(files, nil)) {
		l, err := ParseLine(bytes.TrimSuffix(raw, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		entry := bytes.Replace(l.Entry, []byte(`"key:k1"`), []byte(`"key:k2"`), 1)
		l = tips[l.Chain].Next(l.Chain, entry)
		tips[l.Chain] = l.Head()
		text = AppendLine(text, l)
	}
	rep := verifyAll(t, [][]byte{text}, VerifyOptions{Heads: tips, PublicKeys: keys})
	if got := strings.Join(rep.Problems(), "\n"); rep.OK || !strings.Contains(got, "chain _checkpoint") {
		t.Errorf("the forged log: OK=%v, %s", rep.OK, got)
	}
}

func TestHeadsRoot(t *testing.T) {
	heads := make(map[string]Head)
	seen := make(map[[32]byte]bool)
	for i := range 40 {
		heads[fmt.Sprintf("team-%d", i)] = Head{Seq: uint64(i + 1), Hash: [32]byte{byte(i)}}
		root, n := headsRoot(heads, CheckpointChain)
		if seen[root] || n != i+1 {
			t.Fatalf("%d heads: %d counted, root seen before: %v", i+1, n, seen[root])
		}
		seen[root] = true
	}
	root, _ := headsRoot(heads, CheckpointChain)
	heads[CheckpointChain], heads["empty"] = Head{Seq: 1}, Head{}
	if again, n := headsRoot(heads, CheckpointChain); again != root || n != 40 {
		t.Error("the checkpoints' own chain, or one without a record, is counted")
	}
	for name, h := range heads {
		other := maps.Clone(heads)
		other[name] = Head{h.Seq + 1, h.Hash}
		if again, _ := headsRoot(other, CheckpointChain); name != CheckpointChain && again == root {
			t.Errorf("a change of %s does not change the root", name)
		}
	}
}

// TestHeaderOfManyTenants: 10,000 tenants cost no long line.
func TestHeaderOfManyTenants(t *testing.T) {
	signer, keys := testSigner(t, 1)
	heads := make(map[string]Head)
	for i := range 10_000 {
		heads[fmt.Sprintf("%060d", i)] = Head{Seq: 1 << 62, Hash: [32]byte{0xff}}
	}
	s := scribe{chain: CheckpointChain, signer: signer, note: func(action, _ string) Entry { return entry("", action) }}
	all, err := s.header(Head{Seq: 7, Hash: [32]byte{1}}, heads, "audit.00000001.20260801T100000Z.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, l := range all {
		line := AppendLine(nil, l)
		if len(line) > MaxLine {
			t.Fatalf("a line of %d bytes", len(line))
		}
		text = append(text, line...)
	}
	rep := verifyAll(t, [][]byte{text}, VerifyOptions{PublicKeys: keys, Part: true})
	if !rep.OK || len(rep.Chains) != 10_001 {
		t.Errorf("%d chains, %v", len(rep.Chains), rep.Problems())
	}
	t.Logf("%d lines, %d bytes", len(all), len(text))
}

// TestVerifyLogBesideTheDrain verifies while the log rotates: no file is missed or read twice.
func TestVerifyLogBesideTheDrain(t *testing.T) {
	signer, keys := testSigner(t, 1)
	r := newRig(t)
	r.edit = rotating(signer)
	r.open()
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for range 40 {
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
		}
	}()
	for more := true; more; {
		select {
		case <-writing:
			more = false
		default:
		}
		heads, _ := r.out.OwnHeads(t.Context())
		rep, err := VerifyLog(r.path, VerifyOptions{Heads: heads, PublicKeys: keys})
		if err != nil || !rep.OK {
			t.Fatalf("%v, %v", err, rep.Problems())
		}
	}
}

func TestVerifyFilesMissing(t *testing.T) {
	if _, err := VerifyFiles([]string{filepath.Join(t.TempDir(), "no")}, VerifyOptions{}); err == nil {
		t.Error("a missing file is no error")
	}
}

func FuzzVerifyFiles(f *testing.F) {
	files, heads, keys := signedLog(f, 3)
	f.Add(files[0], files[1])
	f.Add(files[1], files[2])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		verifyAll(t, [][]byte{a, b}, VerifyOptions{PublicKeys: keys, Part: true})
		rep := verifyAll(t, [][]byte{a, b}, VerifyOptions{Heads: heads, PublicKeys: keys})
		have := byChain(slices.Concat(a, b))
		for chain, want := range byChain(bytes.Join(files, nil)) {
			if rep.OK && !strings.HasPrefix(have[chain], want) {
				t.Errorf("OK, but chain %s is\n%s\nwant\n%s", chain, have[chain], want)
			}
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	files, _, keys := signedLog(f, 2)
	for _, raw := range lines(bytes.Join(files, nil)) {
		if l, err := ParseLine(bytes.TrimSuffix(raw, []byte("\n"))); err == nil && l.Chain == CheckpointChain {
			f.Add([]byte(l.Entry))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseCheckpoint(b)
		if err != nil || e.Checkpoint == nil {
			return
		}
		back, err := parseCheckpoint(e.encode())
		if err != nil || !bytes.Equal(back.message(Head{}), e.message(Head{})) {
			t.Fatalf("%s: a second reading signs something else: %v", b, err)
		}
		_ = e.judge(keys, Head{})
	})
}
