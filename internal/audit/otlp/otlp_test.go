package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/polygate/polygate/internal/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// intake is a collector: it speaks OTLP over HTTP and keeps what it gets.
type intake struct {
	*httptest.Server
	refuse atomic.Int32  // answer so many requests with 503
	came   chan struct{} // a value for each request that was taken

	mu      sync.Mutex
	records []*logs.LogRecord // guarded by mu
	header  http.Header       // guarded by mu: of the last request
}

func newIntake(t *testing.T) *intake {
	in := &intake{came: make(chan struct{}, 10_000)}
	in.Server = httptest.NewServer(http.HandlerFunc(in.serve))
	t.Cleanup(in.Close)
	return in
}

func (in *intake) serve(w http.ResponseWriter, r *http.Request) {
	if in.refuse.Add(-1) >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	b, err := io.ReadAll(body)
	var req collogs.ExportLogsServiceRequest
	if err != nil || proto.Unmarshal(b, &req) != nil || r.URL.Path != "/v1/logs" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.header = r.Header.Clone()
	for _, res := range req.ResourceLogs {
		for _, scope := range res.ScopeLogs {
			in.records = append(in.records, scope.LogRecords...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	in.came <- struct{}{}
}

func (in *intake) got() []*logs.LogRecord {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.records
}

// chain returns n audit lines of one chain.
func chain(n int) []byte {
	var text []byte
	var tip audit.Head
	for i := range n {
		l := tip.Next("team-a", audit.EncodeEntry(audit.Entry{ID: "id-" + strconv.Itoa(i), Time: time.Unix(1_800_000_000, int64(i)).UTC(), Tenant: "team-a",
			Principal: "user:u1", Issuer: "https://idp.example", KeyID: "k1", Via: audit.ViaOIDC, Action: "mcp.call", Resource: "server/x\n", Decision: audit.Deny,
			Bundle: "sha256:1", Remote: "192.0.2.1", RequestID: "req-" + strconv.Itoa(i), Millis: 7}))
		tip = l.Head()
		text = audit.AppendLine(text, l)
	}
	return text
}

// start runs a mirror and returns what ends it.
func start(t *testing.T, cfg Config) (m *Mirror, stop func()) {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return m, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

func TestRecordsArriveAsTheyAreWritten(t *testing.T) {
	in := newIntake(t)
	in.refuse.Store(1) // the exporter tries again
	m, stop := start(t, Config{Endpoint: in.URL + "/v1/logs", Headers: map[string]string{"Authorization": "Bearer x"}, Replica: "r1"})
	text := chain(2000)
	for part := range bytes.SplitAfterSeq(text, []byte("\n")) {
		m.Mirror(part)
	}
	for len(in.got()) < 2000 && m.Dropped() == 0 {
		<-in.came
	}
	stop()
	if m.Dropped() != 0 || m.Err() != nil {
		t.Fatalf("dropped %d, Err %v", m.Dropped(), m.Err())
	}
	var got bytes.Buffer
	for _, r := range in.got() {
		got.WriteString(r.Body.GetStringValue() + "\n")
	}
	if !bytes.Equal(got.Bytes(), text) {
		t.Fatalf("%d records came, and not the lines that were written", len(in.got()))
	}
	r := in.got()[3]
	have := make(map[string]string)
	for _, a := range r.Attributes {
		have[strings.TrimPrefix(a.Key, "audit.")] = a.Value.GetStringValue()
	}
	for key, want := range map[string]string{"id": "id-3", "tenant": "team-a", "chain": "team-a", "principal": "user:u1", "issuer": "https://idp.example", "key_id": "k1",
		"via": "oidc", "action": "mcp.call", "resource": "server/x\n", "decision": "deny", "bundle": "sha256:1", "remote": "192.0.2.1", "request_id": "req-3"} {
		if have[key] != want {
			t.Errorf("attribute %s = %q, want %q", key, have[key], want)
		}
	}
	if r.TimeUnixNano != uint64(time.Unix(1_800_000_000, 3).UnixNano()) || r.SeverityNumber != logs.SeverityNumber_SEVERITY_NUMBER_WARN || in.header.Get("Authorization") != "Bearer x" {
		t.Errorf("time %d, severity %v, header %v", r.TimeUnixNano, r.SeverityNumber, in.header)
	}
}

// TestHungCollectorHoldsNobody: a collector that takes a request and never answers costs only this copy.
func TestHungCollectorHoldsNobody(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hung.Close()
	defer close(release)
	m, stop := start(t, Config{Endpoint: hung.URL + "/v1/logs", Timeout: time.Hour, Queue: 64 << 10})
	text := chain(100)
	m.Mirror(text)
	<-asked
	began := time.Now()
	for range 1000 {
		m.Mirror(text)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("1000 batches took %v beside a hung collector", took)
	}
	if n := m.Dropped(); n < 99_000 {
		t.Errorf("%d records are counted as dropped, want nearly 100,000", n)
	}
	began = time.Now()
	stop()
	if took := time.Since(began); took > closeTimeout+5*time.Second {
		t.Errorf("Run ended after %v", took)
	}
	if n := m.Dropped(); n != 100_100 || m.Err() == nil {
		t.Errorf("at the end %d of 100,100 records are counted as dropped, Err %v", n, m.Err())
	}
}

// TestAwayCollectorIsVisible: nobody listens.
func TestAwayCollectorIsVisible(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	m, stop := start(t, Config{Endpoint: gone.URL + "/v1/logs", Retry: time.Millisecond})
	m.Mirror(chain(3))
	m.Mirror([]byte("no record\n"))
	stop()
	if m.Dropped() != 4 || m.Err() == nil {
		t.Errorf("dropped %d, Err %v; want 4 and why", m.Dropped(), m.Err())
	}
}

func TestNewChecks(t *testing.T) {
	for _, cfg := range []Config{{}, {Endpoint: "collector:4318"}, {Endpoint: "ftp://x/"}, {Endpoint: "https://"}, {Endpoint: "https://u:p@x/"}, {Endpoint: "https://x/", Timeout: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v: accepted", cfg)
		}
	}
}
