package strictyaml

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// told collects mistakes as line:column: text.
type told struct{ list []string }

func (t *told) Add(at Position, format string, args ...any) {
	t.list = append(t.list, fmt.Sprintf("%d:%d: %s", at.Line, at.Column, fmt.Sprintf(format, args...)))
}

func (t *told) Full() bool { return len(t.list) >= 3 }

type form struct {
	Name  string            `yaml:"name"`
	On    bool              `yaml:"on"`
	Count int               `yaml:"count"`
	Share float64           `yaml:"share"`
	Wait  time.Duration     `yaml:"wait"`
	List  []form            `yaml:"list"`
	Texts map[string]string `yaml:"texts"`
	More  *form             `yaml:"more"`
	inner `yaml:",inline"`
	Not   int
}

type inner struct {
	When time.Time `yaml:"when"`
}

func TestDocument(t *testing.T) {
	m := &told{}
	src := "name: 'x'\non: true\ncount: 7\nshare: 0.5\nwait: 2s\nlist:\n  - {name: y}\n  - name: z\ntexts: {a: b}\nmore:\n  count: 3\nwhen: 2027-01-31T00:00:00Z\n"
	var paths []string
	got := form{Share: 9, Not: 4}
	Decoder{Mistakes: m, Seen: func(path string, at Position) { paths = append(paths, fmt.Sprint(path, at)) }}.Document(Parse([]byte(src), 8, m), &got)
	want := form{
		Name: "x", On: true, Count: 7, Share: 0.5, Wait: 2 * time.Second, List: []form{{Name: "y"}, {Name: "z"}}, Texts: map[string]string{"a": "b"}, Not: 4,
		More: &form{Count: 3}, inner: inner{time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)},
	}
	if !reflect.DeepEqual(got, want) || len(m.list) > 0 {
		t.Errorf("got %+v, %q; want %+v", got, m.list, want)
	}
	for _, p := range []string{"name{1 7}", "list{7 3}", "list[1].name{8 11}", "more.count{11 10}"} {
		if !slices.Contains(paths, p) {
			t.Errorf("%q is not among %q", p, paths)
		}
	}
}

func TestMistakes(t *testing.T) {
	for src, want := range map[string][]string{
		"":                        nil,
		"# nothing":               nil,
		"nam: x":                  {`1:1: "nam" is unknown here: known are name, on, count, share, wait, list, texts, more, when`},
		"Not: 1":                  {`1:1: "Not" is unknown here: known are name, on, count, share, wait, list, texts, more, when`},
		"on: yes\ncount: 1.5":     {"1:5: on: must be true or false", `2:8: count: "1.5" is not a whole number`},
		"wait: 5":                 {"1:7: wait: 5 has no unit: write, for example, 10s, 500ms or 5m"},
		"name: true":              {"1:7: name: must be text: put it in quotes if true is meant"},
		"share: .nan":             {`1:8: share: ".nan" is not a number`},
		"list: x":                 {"1:7: list: is a single value where a list belongs"},
		"- x":                     {"1:1: is a list where settings (name: value) belong"},
		"list: [{on: 1}, {x: 2}]": {"1:13: list[0].on: must be true or false", `1:18: "x" is unknown here: known are name, on, count, share, wait, list, texts, more, when`},
		"a: 1\nb: 2\nc: 3\nd: 4":  {`1:1: "a" is`, `2:1: "b" is`, `3:1: "c" is`, `4:1: "d" is`},
		"name: &x y":              {"1:7: YAML's anchor is not supported here: write the value out"},
		"name: x\nname: y":        {`2:1: mapping key "name" already defined`},
		"name: x\n---\nname: y":   {"3:1: is a second YAML document: a file has one"},
		"name: \xff":              {"1:7: is not plain UTF-8 text"},
		"more: {more: {more: {more: {more: {more: {}}}}}}": {"1:42: is nested more than 5 deep"},
	} {
		m := &told{}
		Decoder{Mistakes: m}.Document(Parse([]byte(src), 5, m), &form{})
		if len(m.list) != len(want) {
			t.Errorf("%q: %q, want %q", src, m.list, want)
			continue
		}
		for i := range want {
			if !strings.HasPrefix(m.list[i], want[i]) {
				t.Errorf("%q: %q, want %q", src, m.list[i], want[i])
			}
		}
	}
}

func TestFind(t *testing.T) {
	root := Parse([]byte("a:\n  b: [x, {c: y}]\n"), 8, &told{})
	for path, want := range map[string]Position{"": {1, 1}, "a": {2, 3}, "a.b[1].c": {2, 14}, "a.b[7]": {2, 6}, "a.z": {2, 3}} {
		if got := Place(Find(root, path)); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte("name: x\nlist: [{wait: 5s}]\n"))
	f.Add([]byte("a: &b [*b, *b]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		m := &told{}
		root := Parse(src, 8, m)
		if root != nil && len(m.list) > 0 {
			t.Errorf("a document beside the mistakes %q", m.list)
		}
		Decoder{Mistakes: m}.Document(root, &form{})
	})
}
