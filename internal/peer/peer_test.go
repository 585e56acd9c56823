package peer

import (
	"net/url"
	"testing"
)

func TestURI(t *testing.T) {
	for _, name := range []string{"a", "node-1", "gw.example.org"} {
		if got, ok := FromURI(URI(name)); !ok || got != name {
			t.Errorf("FromURI(URI(%q)) = %q, %v", name, got, ok)
		}
	}
	for _, bad := range []string{
		"polygate://replica/", "polygate://replica", "polygate://tenant/a", "https://replica/a", "polygate://replica/a/b",
		"polygate://replica/a?b", "polygate://replica/a#b", "polygate://u@replica/a", "polygate://replica//a",
	} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := FromURI(u); ok {
			t.Errorf("FromURI(%q) = %q: it names no replica", bad, name)
		}
	}
}
