package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// stage is an API server that keeps pods and service accounts, and fails as it is told to. It is for what a real one does not do when a
// test wants it.
type stage struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string]metav1.Object     // by path; guarded by mu
	seen    []string                     // guarded by mu: method and path of each request
	before  func(r *http.Request) *reply // nil = none; a reply is given in place of the act
	after   func(r *http.Request) *reply // likewise, once the act is done: its outcome is not heard of
	gone    chan struct{}                // closed at the end, for those who hang
}

// reply is an answer that is staged; code 0 hangs until the caller goes away.
type reply struct {
	code   int
	reason metav1.StatusReason
	say    string
	body   string // in place of a status
	open   bool   // 200, and nothing comes after it
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{objects: make(map[string]metav1.Object), gone: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.gone)
		s.Server.CloseClientConnections()
		s.Server.Close()
	})
	return s
}

// open returns the driver of a tenant whose cluster is the stage.
func (s *stage) open(t *testing.T, id tenant.ID, change ...func(*Config)) *driver {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {token: x}}]\n", s.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Kubeconfig: file, NamespacePrefix: "k-", QPS: 1e5, Burst: 1e5, Timeout: 5 * time.Second}
	for _, f := range change {
		f(&c)
	}
	ds, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIdle(ds) })
	return ofTenant(t, ds, id)
}

func ofTenant(t *testing.T, ds *Drivers, id tenant.ID) *driver {
	t.Helper()
	d, err := ds.open(sandbox.Tenant{Scope: tenant.Confine(id, "uid-of-"+string(id))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ServeHTTP implements http.Handler.
func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if a := before(r); a != nil {
			s.give(w, r, a)
			return
		}
	}
	code, answer := s.act(r, body)
	if after != nil {
		if a := after(r); a != nil {
			s.give(w, r, a)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *stage) give(w http.ResponseWriter, r *http.Request, a *reply) {
	if a.open {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
	}
	if a.code == 0 {
		select {
		case <-r.Context().Done():
		case <-s.gone:
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if a.code == 429 {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(a.code)
	if a.body != "" {
		_, _ = io.WriteString(w, a.body)
		return
	}
	_ = json.NewEncoder(w).Encode(status(a.code, a.reason, a.say))
}

func status(code int, reason metav1.StatusReason, say string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: say,
	}
}

// act does what a request asks for.
func (s *stage) act(r *http.Request, body []byte) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.Path
	switch r.Method {
	case http.MethodPost:
		return s.create(path, body)
	case http.MethodGet:
		if o := s.objects[path]; o != nil {
			return 200, o
		}
	case http.MethodPatch:
		if o := s.objects[path]; o != nil {
			o.SetFinalizers(nil)
			return 200, o
		}
	case http.MethodDelete:
		return s.remove(path, body)
	}
	return 404, status(404, metav1.StatusReasonNotFound, "not found")
}

func (s *stage) create(path string, body []byte) (int, any) {
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	m, ok := o.(metav1.Object)
	if err != nil || !ok {
		return 400, status(400, metav1.StatusReasonBadRequest, fmt.Sprint(err))
	}
	path += "/" + m.GetName()
	if s.objects[path] != nil {
		return 409, status(409, metav1.StatusReasonAlreadyExists, "already exists")
	}
	m.SetUID(types.UID(uuid.NewString()))
	m.SetResourceVersion(strconv.Itoa(len(s.seen)))
	switch k := o.(type) {
	case *corev1.Pod:
		k.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	case *corev1.ServiceAccount:
		k.TypeMeta = metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"}
	}
	s.objects[path] = m
	return 201, m
}

func (s *stage) remove(path string, body []byte) (int, any) {
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, new(metav1.SchemeGroupVersion.WithKind("DeleteOptions")), &metav1.DeleteOptions{})
	if err != nil {
		return 400, status(400, metav1.StatusReasonBadRequest, err.Error())
	}
	found := s.objects[path]
	if found == nil {
		return 404, status(404, metav1.StatusReasonNotFound, "not found")
	}
	if g := o.(*metav1.DeleteOptions).GracePeriodSeconds; g != nil && *g == 0 {
		return 400, status(400, metav1.StatusReasonBadRequest, "a grace of 0 forgets a pod that still runs")
	}
	if p := o.(*metav1.DeleteOptions).Preconditions; p != nil && p.UID != nil && *p.UID != found.GetUID() {
		return 409, status(409, metav1.StatusReasonConflict, "UID in precondition differs")
	}
	delete(s.objects, path)
	return 200, found
}

// have returns the paths of the objects of a kind.
func (s *stage) have(kind string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for path := range s.objects {
		if strings.Contains(path, "/"+kind+"/") {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

func (s *stage) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// fail stages what is answered in the place of acts, and of their outcomes.
func (s *stage) fail(before, after func(r *http.Request) *reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// put puts an object on the stage.
func (s *stage) put(path string, o metav1.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = o
}
