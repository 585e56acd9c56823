package acmetest

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerStartsAnswersAndRestarts(t *testing.T) {
	s := Start(t, Options{Alternates: 1})
	if got := s.Orders("a.polygate.test"); got != 0 {
		t.Errorf("orders = %d, want 0", got)
	}
	s.Roots()
	s.Restart()
	s.Roots()
	s.SetTXT("_x.polygate.test", "v")
	s.AddCAA("polygate.test", "issue", ";")
	s.SetA("b.polygate.test", "127.0.0.2")
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Resolver())
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := r.LookupTXT(ctx, "_x.polygate.test."); err != nil || len(got) != 1 || got[0] != "v" {
		t.Errorf("TXT = %q, %v, want v", got, err)
	}
	if got, err := r.LookupHost(ctx, "b.polygate.test."); err != nil || len(got) != 1 || got[0] != "127.0.0.2" {
		t.Errorf("A = %q, %v", got, err)
	}
	s.ServFail("_x.polygate.test", true)
	if _, err := r.LookupTXT(ctx, "_x.polygate.test."); err == nil {
		t.Error("a record that was to fail is answered")
	}
}
