package authn

import (
	"context"

	"github.com/polygate/polygate/internal/tenant"
)

// Reviewer asks a Kubernetes API server who a token's bearer is (TokenReview). It is safe for concurrent use.
type Reviewer interface {
	// Review returns the server's verdict. audiences are those that the token must be meant for, one of them; none = the
	// server's own. An error means that the server cannot be asked now, and says nothing about the token.
	Review(ctx context.Context, token string, audiences []string) (Review, error)
}

// Review is the verdict of an API server on a token.
type Review struct {
	Authenticated bool
	Username      string // such as system:serviceaccount:<namespace>:<name>
	UID           string
	Groups        []string
	Audiences     []string // of those asked for, the ones that the token is meant for
}

type reviews struct{}

func newReviews(s *Service) *reviews { return &reviews{} }

func (r *reviews) changed(id tenant.ID, e *tenant.Entry) {}
