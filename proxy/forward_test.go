package proxy

import (
	"strings"
	"testing"
)

// A request is served by the tenant's owner, whichever replica gets it, and looks the same everywhere.
func TestForward(t *testing.T) {
	c := newCluster(t, 3)
	for _, proto := range []string{"", "h2"} {
		var want string
		for i, r := range c.r {
			got := r.do(r.client(proto), "GET", "https://"+hostA+"/servers?q=%2F&x", nil, bearer(keyA))
			check(t, r.name, got.status, 200)
			if by := got.header.Get("X-Served-By"); by != "r0" {
				t.Errorf("%s: served by %s", r.name, by)
			}
			if i == 0 {
				want = got.body
			}
			if got.body != want {
				t.Errorf("%s: the owner was told %q, and of its own client %q", r.name, got.body, want)
			}
		}
	}
	if !strings.Contains(c.r[1].log.String(), `"forwarded_to":"r0"`) || !strings.Contains(c.r[0].log.String(), `"forwarded_from":"r1"`) {
		t.Error("the logs do not tell of the hop")
	}
}
