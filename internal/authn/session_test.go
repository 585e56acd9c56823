package authn

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

func TestSessionValue(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{nil, ""},
		{[]string{"__Host-polygate=x"}, "x"},
		{[]string{"a=1; __Host-polygate=x; b=2"}, "x"},
		{[]string{"a=1;__Host-polygate=x"}, "x"},
		{[]string{"a=1", "__Host-polygate=x"}, "x"},
		{[]string{"__Host-polygate=x=y"}, "x=y"},
		{[]string{"__Host-polygate=x; __Host-polygate=x"}, ""},
		{[]string{"__Host-polygate=x", "__Host-polygate=y"}, ""},
		{[]string{"__host-polygate=x; __Host-polygate-login-a=x; x__Host-polygate=x; __Host-polygate"}, ""},
	} {
		if got := sessionValue(c.fields); got != c.want {
			t.Errorf("%q: got %q, want %q", c.fields, got, c.want)
		}
	}
}

func TestOnce(t *testing.T) {
	now := time.Now()
	m := newOnce(func() time.Time { return now })
	a, b := tenant.Confine("a", "uid-a"), tenant.Confine("b", "uid-b")
	first := func(s tenant.Scope, id string) bool {
		ok, err := m.First(context.Background(), s, id, now.Add(30*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !first(a, "x") || first(a, "x") || !first(b, "x") || !first(a, "y") {
		t.Error("not once in each tenant")
	}
	if ok, _ := m.First(context.Background(), a, "late", now); ok {
		t.Error("what is over already is accepted")
	}
	for i := range maxOnce - 2 {
		first(a, fmt.Sprint(i))
	}
	if ok, err := m.First(context.Background(), a, "more", now.Add(time.Second)); ok || !fault.Is(err, fault.Unavailable) {
		t.Errorf("over the bound: got %v, %v", ok, err)
	}
	if !first(b, "z") {
		t.Error("one tenant's use stops another's")
	}
	now = now.Add(31 * time.Second)
	if !first(a, "new") || len(m.used) != 1 || len(m.used["uid-a"]) != 1 {
		t.Errorf("what is over is kept: %v", m.used)
	}
}

func TestOnceConcurrently(t *testing.T) {
	m := newOnce(time.Now)
	var mu sync.Mutex
	var won []string
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			id := fmt.Sprint(i % 4)
			if ok, err := m.First(context.Background(), tenant.Confine("a", "uid"), id, time.Now().Add(time.Minute)); ok && err == nil {
				mu.Lock()
				won = append(won, id)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(won)
	if !slices.Equal(won, []string{"0", "1", "2", "3"}) {
		t.Errorf("first were %v", won)
	}
}

// TestTicketOpensAtItsHost: the nonce cookie, which is bound to the host too, is not what keeps a ticket from another host.
func TestTicketOpensAtItsHost(t *testing.T) {
	now := time.Now()
	key, other := seal.NewDataKey(), seal.NewDataKey()
	u := &user{username: "alice", claims: &tenant.Claims{Subject: "alice"}}
	token, err := sealTicket(key, newSession(u, nil, now, time.Hour), "www.custom.test", "c", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, v, ok := openTicket(key, token, "www.custom.test"); !ok || v.Subject != "alice" {
		t.Errorf("at its host: got %+v, %v", v, ok)
	}
	if _, _, ok := openTicket(key, token, "team-a.gw.test"); ok {
		t.Error("it opens at another host")
	}
	if _, _, ok := openTicket(other, token, "www.custom.test"); ok {
		t.Error("it opens with another tenant's key")
	}
}
