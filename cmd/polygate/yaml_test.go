package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestYAML(t *testing.T) {
	const in = `{"items":[{"name":"a","count":1.5,"ok":true,"none":null,"tags":[],"more":{}},{"name":"null","list":["x",["z"]],"source":"package a\n\nallow := true\n"}],"id":"sha256:00","time":"2026-01-31T00:00:00Z"}`
	const want = `items:
  - name: a
    count: 1.5
    ok: true
    none: null
    tags: []
    more: {}
  - name: "null"
    list:
      - x
      - - z
    source: |
      package a

      allow := true
id: "sha256:00"
time: "2026-01-31T00:00:00Z"
`
	got, err := jsonToYAML([]byte(in))
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%q\nwant\n%q", err, got, want)
	}
}

// FuzzYAML: what is written is read as the same by another's reader, and holds nothing that a terminal would obey.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"", "a", "\n", "a\r\nb", "\t@", "null", "0x1", "a\n\tb\n", "a\n b\n\nc", "\u009b\x7f\u2028\U000e0001\"\\", "- a\n- b", "a: b", "# a\n# b", "---\nx", "...\ny", "a\n\n", "😀\n世", "no", "1e3", "=", "<<"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		b, err := json.Marshal(map[string]any{"k": s, "l": []string{s, s}, "m": map[string]string{"x" + s: s}})
		if err != nil {
			t.Skip()
		}
		out, err := jsonToYAML(b)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(strings.NewReplacer("\n", "", "\t", "").Replace(string(out)), hostile) {
			t.Errorf("%q lets a control character pass", out)
		}
		var want, got map[string]any
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(out, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q comes back as %#v (%v), want %#v", out, got, err, want)
		}
	})
}
