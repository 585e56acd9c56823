package peer

import (
	"log/slog"
	"net/http"
	"time"
)

// logged writes a line for each request when it has been answered.
func logged(h http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun, seen := time.Now(), &watched{ResponseWriter: w}
		defer func() { // also of a relay that broke off: ReverseProxy panics then
			log.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("host", r.Host), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", seen.status),
				slog.Int64("bytes", seen.bytes), slog.Duration("took", time.Since(begun)), slog.String("remote", r.RemoteAddr))
		}()
		h.ServeHTTP(seen, r)
	})
}

// watched remembers what was answered. Unwrap lets http.ResponseController flush and hijack.
type watched struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}
