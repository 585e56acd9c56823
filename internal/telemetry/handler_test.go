package telemetry

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestHandler(t *testing.T) {
	m, reg := newMetrics(t, 5)
	request(m.Tenant("team-a"), Result{Status: 200})
	var store, sink error
	h := NewHandler(reg, Check{"store", func() error { return store }}, Check{"audit", func() error { return sink }})

	for _, c := range []struct {
		name        string
		store, sink error
		method      string
		path        string
		status      int
		body        string
	}{
		{"alive", errors.New("x"), nil, "GET", "/healthz", 200, "ok\n"},
		{"ready", nil, nil, "GET", "/readyz", 200, "ok\n"},
		{"one fails", errors.New("etcd is away"), nil, "GET", "/readyz", 503, "store: etcd is away\n"},
		{"two fail", errors.New("a\nb"), errors.New("disk full"), "GET", "/readyz", 503, "store: a\\nb\naudit: disk full\n"},
		{"head", nil, nil, "HEAD", "/readyz", 200, "ok\n"},
		{"unknown", nil, nil, "GET", "/x", 404, ""},
		{"post", nil, nil, "POST", "/metrics", 405, ""},
	} {
		store, sink = c.store, c.sink
		w := get(h, c.method, c.path)
		if w.Code != c.status || c.body != "" && w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.name, w.Code, w.Body, c.status, c.body)
		}
	}
	if w := get(h, "GET", "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), `tenant="team-a"`) {
		t.Errorf("/metrics: %d %s", w.Code, w.Body)
	}
	if w := get(NewHandler(prometheus.NewRegistry()), "GET", "/readyz"); w.Code != 200 {
		t.Errorf("without checks: %d, want ready", w.Code)
	}
}
