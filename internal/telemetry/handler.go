package telemetry

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one condition of readiness.
type Check struct {
	Name string       // one word
	Func func() error // nil = ready; else why not. It must not block
}

// NewHandler serves the telemetry listener, which is for the platform's operators and has no authentication: bind it
// where only they and their Prometheus can reach it. /healthz says that the process lives, /readyz that every check
// passes, /metrics what g gathers.
func NewHandler(g prometheus.Gatherer, checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if failing := run(checks); failing != "" {
			answer(w, http.StatusServiceUnavailable, failing)
			return
		}
		answer(w, http.StatusOK, "ok\n")
	})
	return mux
}

// run returns a line for each check that fails.
func run(checks []Check) string {
	var b strings.Builder
	for _, c := range checks {
		if err := c.Func(); err != nil {
			fmt.Fprintf(&b, "%s: %s\n", c.Name, Clean(err.Error(), maxCause))
		}
	}
	return b.String()
}

func answer(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a prober that went away needs no answer
}
