package acme

import (
	"context"
	"errors"
	"testing"

	"github.com/polygate/polygate/certs/acme/acmetest"
)

// TestOrderIsResumed: an order whose outcome nobody knows is finished, and nothing is issued twice: one that ended before it was
// finalized, one that was issued, and one that the server has no more.
func TestOrderIsResumed(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	const host = "resumed.polygate.test"
	o := r.order(host)
	var url string
	ended := errors.New("the process ends here")
	o.Begun = func(_ context.Context, u string) error { url = u; return ended }
	if _, err := r.e.Obtain(t.Context(), o); !errors.Is(err, ended) || url == "" {
		t.Fatalf("got %v at %q, want the order to end before it is finalized", err, url)
	}
	if n := r.Orders(host); n != 0 {
		t.Fatalf("issued %d times before it was written down", n)
	}
	o.Begun, o.Resume = nil, url
	first := r.issue(o)
	again := r.issue(o)
	if string(first) != string(again) {
		t.Error("an order that was issued has another certificate the second time")
	}
	if n := r.Orders(host); n != 1 {
		t.Errorf("issued %d times, want once", n)
	}
	r.Restart() // it has forgotten orders and accounts
	r.issue(o)
	if n := r.Orders(host); n != 2 {
		t.Errorf("issued %d times, want once more by the server that has forgotten", n)
	}
}

// TestResumeWaitsForTheServer: while the server is away nobody knows what became of an order, and no new one is placed.
func TestResumeWaitsForTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	o := r.order("later.polygate.test")
	var url string
	o.Begun = func(_ context.Context, u string) error { url = u; return nil }
	r.issue(o)
	o.Begun, o.Resume = nil, url
	r.Pause()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.e.Obtain(ctx, o); err == nil {
		t.Error("an order was placed at a server that is away")
	}
	r.Resume()
	r.issue(o)
	if n := r.Orders("later.polygate.test"); n != 1 {
		t.Errorf("issued %d times, want once", n)
	}
}
