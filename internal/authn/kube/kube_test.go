package kube_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authn/kube"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an API server that knows TokenReview and nothing else.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []authenticationv1.TokenReviewSpec // guarded by mu
	status int                                // guarded by mu: answered instead; 0 = none
	hang   bool                               // guarded by mu
}

func newServer(t *testing.T) *server {
	s := &server{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	var review authenticationv1.TokenReview
	if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || json.NewDecoder(r.Body).Decode(&review) != nil ||
		r.Header.Get("Authorization") != "Bearer gateway-token" || review.Kind != "TokenReview" || review.APIVersion != "authentication.k8s.io/v1" {
		http.Error(w, "not a review", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, review.Spec)
	status, hang := s.status, s.hang
	s.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if status != 0 {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":` + http.StatusText(status) + `}`))
		return
	}
	w.WriteHeader(http.StatusCreated)
	switch review.Spec.Token {
	case "good":
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:ns-a:runner", UID: "u1", Groups: []string{"system:serviceaccounts", "system:authenticated"},
		}}
	case "nobody":
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true}
	default:
		review.Status = authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}
	}
	_ = json.NewEncoder(w).Encode(review)
}

func (s *server) set(status int, hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.hang = status, hang
}

func kubeconfig(t *testing.T, s *server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := strings.ReplaceAll(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "URL", certificate-authority-data: "CA"}}]
users: [{name: u, user: {token: gateway-token}}]
`, "URL", s.URL)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	text = strings.ReplaceAll(text, `"CA"`, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newReviewer(t *testing.T, cfg kube.Config) *kube.Reviewer {
	t.Helper()
	r, err := kube.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestA3ReviewByTheAPIServer(t *testing.T) {
	s := newServer(t)
	r := newReviewer(t, kube.Config{Kubeconfig: kubeconfig(t, s)})
	got, err := r.Review(t.Context(), "good", []string{"polygate"})
	want := authn.Review{
		Authenticated: true, Username: "system:serviceaccount:ns-a:runner", UID: "u1",
		Groups: []string{"system:serviceaccounts", "system:authenticated"}, Audiences: []string{"polygate"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if len(s.asked) != 1 || s.asked[0].Token != "good" || !reflect.DeepEqual(s.asked[0].Audiences, []string{"polygate"}) {
		t.Errorf("asked %+v", s.asked)
	}
	if got, err := r.Review(t.Context(), "bad", nil); err != nil || got.Authenticated {
		t.Errorf("a bad token: %+v, %v", got, err)
	}
	if got, err := r.Review(t.Context(), "nobody", nil); err == nil {
		t.Errorf("nobody: %+v", got)
	}
}

func TestAnAPIServerThatCannotAnswer(t *testing.T) {
	s := newServer(t)
	r := newReviewer(t, kube.Config{Kubeconfig: kubeconfig(t, s), Timeout: 200 * time.Millisecond})
	for _, status := range []int{http.StatusForbidden, http.StatusUnauthorized, http.StatusInternalServerError} {
		s.set(status, false)
		if got, err := r.Review(t.Context(), "good", nil); err == nil {
			t.Errorf("status %d: %+v: our own lack of rights is no verdict on a token", status, got)
		}
	}
	s.set(0, true)
	began := time.Now()
	if _, err := r.Review(t.Context(), "good", nil); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("hung: %v after %s", err, time.Since(began))
	}
	s.Close()
	if _, err := r.Review(t.Context(), "good", nil); err == nil {
		t.Error("down: no error")
	}
}

func TestBadConfiguration(t *testing.T) {
	if _, err := kube.New(kube.Config{Kubeconfig: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a kubeconfig that does not exist: no error")
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := kube.New(kube.Config{}); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
}
