package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestLineRoundTrip(t *testing.T) {
	e := entry("team-a", "server.create")
	l := Head{}.Next("team-a", EncodeEntry(e))
	text := AppendLine(nil, l)
	got, err := ParseLine(bytes.TrimSuffix(text, []byte("\n")))
	if err != nil || !reflect.DeepEqual(got, l) || !got.Intact() {
		t.Fatalf("ParseLine(AppendLine(l)) = %+v, %v; want %+v, intact", got, err, l)
	}
	if back, err := got.Decode(); err != nil || back != e {
		t.Errorf("Decode = %+v, %v; want %+v", back, err, e)
	}
	if second := l.Head().Next("team-a", l.Entry); !second.Follows(l.Head()) || l.Follows(l.Head()) {
		t.Error("Follows does not tell the next line from the same")
	}
}

// TestLineIsFrozen fails when the stored form changes: that needs a new version, or old logs no longer verify.
func TestLineIsFrozen(t *testing.T) {
	text := string(AppendLine(nil, Head{}.Next("team-a", []byte(`{"id":"1"}`))))
	const want = `{"v":1,"chain":"team-a","seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000",` +
		`"hash":"9cea4a2f64b69d81397d46df6c85ab8dcc71c7702f47283b74bcafef52e93c8d","entry":{"id":"1"}}` + "\n"
	if text != want {
		t.Errorf("line\n got %s\nwant %s", text, want)
	}
}

func TestHashFramesItsParts(t *testing.T) {
	var zero [32]byte
	base := sum("team-a", 1, zero, []byte(`{}`))
	one := zero
	one[0] = 1
	for name, other := range map[string][32]byte{
		"chain":              sum("team-b", 1, zero, []byte(`{}`)),
		"shift chain to seq": sum("team-", 'a'<<24, zero, []byte(`{}`)),
		"seq":                sum("team-a", 2, zero, []byte(`{}`)),
		"prev":               sum("team-a", 1, one, []byte(`{}`)),
		"entry":              sum("team-a", 1, zero, []byte(`{ }`)),
		"long chain":         sum("team-a"+strings.Repeat("x", 100), 1, zero, []byte(`{}`)),
	} {
		if other == base {
			t.Errorf("%s: changing it does not change the hash", name)
		}
	}
}

// hostile are texts that forge lines, break JSON, or drive terminals and viewers (X57).
func hostile() []string {
	return []string{
		"a\nb", "a\r\nb", "a\rb", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\u009b31m", "\u0085", "\u2028", "\u2029", "\x00", "\x7f",
		`","hash":"`, `"}` + "\n" + `{"v":1`, `\`, `\"`, `\u000a`, "'\"<script>&", "\xff\xfe", "\xed\xa0\x80", "\u202egnp.exe", "\u2066x\u2069",
		"\ufeff", "日本語", "😀", "\ufffd", strings.Repeat("\x01", 100_000), strings.Repeat("😀", 50_000), "%0a%0d", "\t\v\f\b",
	}
}

func TestEntriesCannotForgeLines(t *testing.T) {
	kind := reflect.TypeFor[Entry]()
	for i := range kind.NumField() {
		if kind.Field(i).Type.Kind() != reflect.String {
			continue
		}
		for _, bad := range hostile() {
			e := entry("team-a", "server.create")
			reflect.ValueOf(&e).Elem().Field(i).SetString(bad)
			b := batch{tips: map[string]Head{}, next: map[string]Head{}}
			b.add(e)
			name := fmt.Sprintf("%s = %.20q", kind.Field(i).Name, bad)
			if n := bytes.Count(b.text, []byte("\n")); n != 1 || len(b.text) > MaxLine {
				t.Fatalf("%s: %d newlines, %d bytes; want one line of at most %d", name, n, len(b.text), MaxLine)
			}
			l, err := ParseLine(bytes.TrimSuffix(b.text, []byte("\n")))
			if err != nil || !l.Intact() {
				t.Fatalf("%s: ParseLine = %v", name, err)
			}
			back, err := l.Decode()
			if err != nil || back.Principal == "" && kind.Field(i).Name != "Principal" {
				t.Fatalf("%s: Decode = %+v, %v", name, back, err)
			}
			got := reflect.ValueOf(back).Field(i).String()
			if want := strings.ToValidUTF8(bad, "\ufffd"); len(bad) < maxField && got != want && len(got) < len(bad) {
				t.Errorf("%s: came back as %q", name, got)
			}
		}
	}
}

func TestLargestEntryFits(t *testing.T) {
	var e Entry
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.String {
			v.Field(i).SetString(strings.Repeat("\x01", 1<<20))
		}
	}
	b := batch{tips: map[string]Head{}, next: map[string]Head{}}
	b.add(e)
	if len(b.text) > MaxLine {
		t.Errorf("the largest entry makes a line of %d bytes; at most %d are read", len(b.text), MaxLine)
	}
	if !bytes.Contains(b.text, []byte(`...(+1044480 bytes)`)) {
		t.Error("a clipped field does not say by how much")
	}
}

func TestEncodeEntryTakesAnyTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(1<<60, 0), time.Unix(-1<<60, 0), time.Now().In(time.FixedZone("x", 5*3600))} {
		e := entry("team-a", "x")
		e.Time = at
		if b := EncodeEntry(e); !json.Valid(b) {
			t.Errorf("time %v: %s", at, b)
		}
	}
}

func TestParseLineRefuses(t *testing.T) {
	good := string(AppendLine(nil, Head{}.Next("team-a", []byte(`{"id":"1"}`))))
	good = strings.TrimSuffix(good, "\n")
	cases := map[string]string{
		"empty":           "",
		"space before":    " " + good,
		"space after":     good + " ",
		"newline":         good + "\n",
		"other version":   strings.Replace(good, `"v":1`, `"v":2`, 1),
		"empty chain":     strings.Replace(good, `"team-a"`, `""`, 1),
		"upper-case name": strings.Replace(good, `"team-a"`, `"Team-a"`, 1),
		"long name":       strings.Replace(good, `"team-a"`, `"`+strings.Repeat("a", 65)+`"`, 1),
		"seq 0":           strings.Replace(good, `"seq":1`, `"seq":0`, 1),
		"seq 01":          strings.Replace(good, `"seq":1`, `"seq":01`, 1),
		"seq -1":          strings.Replace(good, `"seq":1`, `"seq":-1`, 1),
		"seq 2^64":        strings.Replace(good, `"seq":1`, `"seq":18446744073709551616`, 1),
		"no seq":          strings.Replace(good, `"seq":1`, `"seq":`, 1),
		"upper-case hex":  strings.Replace(good, `"prev":"00`, `"prev":"A0`, 1),
		"not hex":         strings.Replace(good, `"prev":"00`, `"prev":"g0`, 1),
		"short hash":      strings.Replace(good, `"prev":"00`, `"prev":"`, 1),
		"entry not JSON":  strings.Replace(good, `{"id":"1"}`, `{"id":}`, 1),
		"entry an array":  strings.Replace(good, `{"id":"1"}`, `[]`, 1),
		"two entries":     strings.Replace(good, `{"id":"1"}`, `{},"x":{}`, 1),
		"no end":          strings.TrimSuffix(good, "}"),
		"ESC":             strings.Replace(good, `"1"`, "\"\x1b\"", 1),
		"not ASCII":       strings.Replace(good, `"1"`, `"é"`, 1),
	}
	for name, text := range cases {
		if l, err := ParseLine([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: ParseLine(%q) = %+v, %v; want ErrMalformed", name, text, l, err)
		}
	}
}

func TestHeadJSON(t *testing.T) {
	h := Head{Seq: 7}
	h.Hash[0] = 0xab
	b, err := json.Marshal(h)
	if want := `{"seq":7,"hash":"ab` + strings.Repeat("0", 62) + `"}`; err != nil || string(b) != want {
		t.Errorf("Marshal = %s, %v; want %s", b, err, want)
	}
	var back Head
	if err := json.Unmarshal(b, &back); err != nil || back != h {
		t.Errorf("Unmarshal = %+v, %v; want %+v", back, err, h)
	}
	for _, bad := range []string{`{"seq":1,"hash":"ab"}`, `{"seq":1,"hash":"zz"}`, `{"seq":-1}`, `[]`, `{"seq":1}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("Unmarshal(%s) accepted it", bad)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	text, _ := chainUp(4, "team-a", "")
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		f.Add(line)
	}
	f.Add([]byte(`{"v":1,"chain":"a","seq":1,"prev":"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLine(b)
		if err != nil {
			return
		}
		if got := AppendLine(nil, l); string(got) != string(b)+"\n" {
			t.Errorf("a second spelling of one line is accepted: %q, written as %q", b, got)
		}
	})
}

func FuzzEncodeEntry(f *testing.F) {
	for _, s := range hostile() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := entry("team-a", "x")
		e.Resource, e.Name = s, s
		l := Head{}.Next("team-a", EncodeEntry(e))
		text := AppendLine(nil, l)
		back, err := ParseLine(text[:len(text)-1])
		if err != nil || !back.Intact() || len(text) > MaxLine {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	e := entry("team-a", "mcp.call")
	out := batch{tips: map[string]Head{}, next: map[string]Head{}}
	b.ReportAllocs()
	for b.Loop() {
		out.text = out.text[:0]
		out.add(e)
	}
}
