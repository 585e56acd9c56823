package vgw_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polygate/polygate/vgw"
)

func TestSelector(t *testing.T) {
	is := map[string]string{"app": "web", "tier": "front", "example.com/team": "a.b", "empty": ""}
	for text, want := range map[string]bool{
		"app=web": true, "app==web": true, "app=db": false, "app!=db": true, "app!=web": false, "none!=x": true, "none=x": false, "app": true, "none": false,
		"!none": true, "!app": false, "app in (db,web)": true, "app in (db)": false, "app notin (db,cache)": true, "app notin (web)": false, "none notin (x)": true,
		"none in (x)": false, "app=web,tier=front": true, "app=web,tier=back": false, " app = web , ! none ": true, "example.com/team=a.b": true,
		"empty=": true, "empty in ()": true, "app=": false, "app in(web)": true, "in=x": false, "notin": false, "app in (web,)": true,
	} {
		matches, err := vgw.Selector(text)
		if err != nil || matches(is) != want {
			t.Errorf("%q: %v, want %t", text, err, want)
		}
	}
	for _, text := range []string{
		"", ",", "=x", "app=web,", "app===web", "app=web tier=front", "app in", "app in web", "app in (web", "app in web)", "app>1", "app<1", "a b", "!", "!app=web",
		"-a=b", "a-=b", "a=-b", "a/b/c=d", "/a=b", "A.com/a=b", "a..b/c", "a=b;c=d", "a\x00=b", "ä=b", "a=" + strings.Repeat("x", 64), strings.Repeat("x", 64),
		strings.Repeat("a=b,", 32) + "a=b", strings.Repeat("a", 3000), "a_b/c=d",
	} {
		if _, err := vgw.Selector(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// FuzzSelector: what is taken is what Kubernetes takes, and chooses the same.
func FuzzSelector(f *testing.F) {
	for _, seed := range []string{"a=b", "a==b,c!=d", "a in (b,c),!d", "a notin (), e", "x.io/a=b", " a = b ", "a,b", "a=,b=c", "in in (in)", "!in", "a\tin(b)"} {
		f.Add(seed, "a", "b")
	}
	f.Fuzz(func(t *testing.T, text, key, value string) {
		matches, err := vgw.Selector(text)
		if err != nil {
			return
		}
		theirs, err := labels.Parse(text)
		if err != nil {
			t.Fatalf("%q is taken here, and not there: %v", text, err)
		}
		for _, set := range []map[string]string{nil, {key: value}, {key: value, "a": "b"}, {"a": "c", "d": ""}} {
			if got, want := matches(set), theirs.Matches(labels.Set(set)); got != want {
				t.Errorf("%q of %v: %t, want %t", text, set, got, want)
			}
		}
	})
}
