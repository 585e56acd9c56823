package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tracing"
)

// What a replica lets in, another takes from it: a request at the very limits of headers, of which the hop makes more.
func TestForwardLargestHeader(t *testing.T) {
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(collector.Close)
	tr, err := tracing.New(t.Context(), tracing.Config{Endpoint: collector.URL, Ratio: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close(context.Background()) })
	c := newCluster(t, 2, func(cfg *Config) { cfg.Tracer = tr })
	limits := DefaultLimits()
	for _, r := range c.r {
		req, err := http.NewRequest("GET", "https://"+hostA+"/b", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + keyA}, "User-Agent": {"x"}, "Accept-Encoding": {"x"}}
		req.Header.Set("Cookie", strings.TrimSuffix(strings.Repeat("a=b; ", limits.Cookies), "; "))
		for i := len(req.Header); i < limits.HeaderFields; i++ {
			req.Header.Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 520))
		}
		res, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		check(t, r.name, res.StatusCode, 200)
	}
}
