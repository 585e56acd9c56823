package tenant

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// sessionOf returns a browser session of a user, or, with an empty id, a token.
func sessionOf(subject, id string, issued time.Time) Principal {
	return Principal{Tenant: "team-a", Kind: KindUser, ID: UserID("corp", subject),
		Claims: &Claims{Authenticator: "corp", Generation: "1", Subject: subject, Session: id, Issued: issued}}
}

func logout(p Principal, at time.Time) Revocation {
	return Revocation{Principal: p.Ref(), Session: p.Claims.Session, Before: at, Until: at.Add(time.Hour)}
}

func revoker() *Record {
	return &Record{ID: "team-a", Authenticators: []Authenticator{{Name: "corp", Generation: "1"}}}
}

// TestLogoutsEndNobodyElse: whoever has an account at a tenant's issuer, member or not, may log in and out for as long as
// he likes. That ends neither the sessions of others nor any token or certificate.
func TestLogoutsEndNobodyElse(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	r := revoker()
	other := sessionOf("alice", "s", now.Add(-time.Minute))
	certificate := sessionOf("job", "", now.Add(-100*24*time.Hour))
	for i := range 3 * MaxRevoked {
		now = now.Add(time.Second)
		p := sessionOf("mallory", fmt.Sprint("m", i), now.Add(-time.Millisecond))
		r.Revoke(logout(p, now), now)
		if _, ok := r.Standing(p, now); ok {
			t.Fatalf("session %d lives after its logout", i)
		}
	}
	for name, p := range map[string]Principal{"a session": other, "a certificate": certificate, "a new session": sessionOf("mallory", "n", now)} {
		if _, ok := r.Standing(p, now); !ok {
			t.Errorf("%s of nobody who logged out has ended: %d revocations, not before %s", name, len(r.Revoked), r.NotBefore)
		}
	}
	if len(r.Revoked) > 2*maxEnded {
		t.Errorf("one user has %d revocations", len(r.Revoked))
	}
}

// TestManyLogouts: those of many users cost other sessions at most, and bring back none.
func TestManyLogouts(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	r := revoker()
	old := sessionOf("zoe", "", now.Add(-time.Hour))
	r.Revoke(Revocation{Principal: old.Ref(), Before: now, Until: now.Add(MaxTokenLife)}, now)
	certificate := sessionOf("job", "", now.Add(-100*24*time.Hour))
	var ended []Principal
	for i := range 2 * MaxRevoked {
		now = now.Add(time.Millisecond)
		p := sessionOf(fmt.Sprint("u", i), fmt.Sprint("s", i), now.Add(-time.Millisecond))
		ended = append(ended, p)
		r.Revoke(logout(p, now), now)
	}
	for _, p := range append(ended, old) {
		if _, ok := r.Standing(p, now); ok {
			t.Fatalf("%s is back", p.Ref())
		}
	}
	if _, ok := r.Standing(certificate, now); !ok {
		t.Error("logouts ended a certificate")
	}
	if err := r.checkRevoked(); err != nil {
		t.Error(err)
	}
}

// TestRevocationsAreBounded in bytes too, whatever the subjects are; those that make way stay in force.
func TestRevocationsAreBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	r := revoker()
	var all []Principal
	for i := range MaxRevoked {
		now = now.Add(time.Second)
		p := sessionOf(strings.Repeat("<", MaxSubject-4)+fmt.Sprint(i), "", now.Add(-time.Second))
		all = append(all, p)
		r.Revoke(Revocation{Principal: p.Ref(), Before: now, Until: now.Add(time.Hour)}, now)
	}
	size := 0
	for i := range r.Revoked {
		size += r.Revoked[i].size()
	}
	if size > maxRevokedAt || len(r.Revoked) == 0 {
		t.Errorf("%d revocations of %d bytes", len(r.Revoked), size)
	}
	for _, p := range all {
		if _, ok := r.Standing(p, now); ok {
			t.Fatal("a revoked principal is back")
		}
	}
}
