// Package kube asks a Kubernetes API server who a token's bearer is, by TokenReview. What the answer is good for, it leaves to
// authn.
package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/polygate/polygate/internal/authn"
)

// Config says which API server to ask.
type Config struct {
	Kubeconfig string        // path of a kubeconfig file; "" = the cluster that this process runs in
	Timeout    time.Duration // of one review; 0 = 5 s
	QPS        float32       // reviews in a second, of all tenants together; 0 = 200. More wait, until their time is over
	Burst      int           // reviews at once above QPS; 0 = twice QPS
}

// Reviewer implements authn.Reviewer. It is safe for concurrent use.
type Reviewer struct {
	client  client.AuthenticationV1Interface
	timeout time.Duration
}

var _ authn.Reviewer = (*Reviewer)(nil)

// New returns a reviewer. It asks nothing yet: an API server that is down at the start may come back.
func New(cfg Config) (*Reviewer, error) {
	rc, err := restConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.QPS <= 0 {
		cfg.QPS = 200 // client-go's own 5 would make 5 logins in a second a queue
	}
	if cfg.Burst <= 0 {
		cfg.Burst = int(2 * cfg.QPS)
	}
	rc.ContentType = runtime.ContentTypeJSON // small, and legible to whoever must find out why a token is refused
	rc.QPS, rc.Burst, rc.Timeout = cfg.QPS, cfg.Burst, cfg.Timeout
	c, err := client.NewForConfig(rest.AddUserAgent(rc, "polygate-authn"))
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return &Reviewer{client: c, timeout: cfg.Timeout}, nil
}

func restConfig(path string) (*rest.Config, error) {
	if path == "" {
		rc, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the cluster that this runs in (or name a kubeconfig): %w", err)
		}
		return rc, nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: %w", path, err)
	}
	return rc, nil
}

// Review implements authn.Reviewer.
func (r *Reviewer) Review(ctx context.Context, token string, audiences []string) (authn.Review, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	ask := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}
	answer, err := r.client.TokenReviews().Create(ctx, ask, metav1.CreateOptions{})
	if err != nil {
		return authn.Review{}, fmt.Errorf("review a token: %w", err)
	}
	st := answer.Status
	if !st.Authenticated {
		// The server says so for bad tokens too, with a text that is for people: it cannot be told from a fault of an
		// authenticator behind it, and is no reason to let anybody in.
		return authn.Review{}, nil
	}
	if st.User.Username == "" {
		return authn.Review{}, errors.New("review a token: the API server vouches for nobody")
	}
	return authn.Review{Authenticated: true, Username: st.User.Username, UID: st.User.UID, Groups: st.User.Groups, Audiences: st.Audiences}, nil
}
