package registry

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// storedRecord returns a routing record with members, bots, keys and revocations by the texts that pick returns.
func storedRecord(t testing.TB, n int, pick func() string) KV {
	t.Helper()
	r := &tenant.Record{V: 1, UID: "u", ID: "t1", DisplayName: pick(), State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI}
	for range n {
		r.Members = append(r.Members, tenant.Member{ID: pick(), Kind: tenant.MemberUser, Authenticator: pick(), Name: pick(), Role: tenant.Viewer, By: pick()})
		r.Bots = append(r.Bots, tenant.Bot{ID: pick(), Name: pick(), Role: tenant.Editor})
		r.Keys = append(r.Keys, tenant.Key{ID: pick(), Name: pick(), Hash: tenant.HashKey(pick()), Role: tenant.Admin, Bot: pick()})
		r.Revoked = append(r.Revoked, tenant.Revocation{Principal: pick(), Session: pick()})
		r.Hosts = append(r.Hosts, pick())
		r.Authenticators = append(r.Authenticators, tenant.Authenticator{Name: pick(), Generation: pick(), OIDC: &tenant.OIDC{
			Issuer: pick(), Audiences: []string{pick(), pick()}, RequiredClaims: map[string]string{pick(): pick()}, Login: &tenant.Login{ClientID: pick()}}})
	}
	val, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return KV{Key: recordKey("t1"), Value: val, ModRevision: 3}
}

func mustDecode(t testing.TB, kv KV) *tenant.Entry {
	t.Helper()
	e, err := decodeRecord(kv)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestCompactRandom: whatever is stored is what the index holds: texts that are equal, within one another, empty, or beyond
// what is searched.
func TestCompactRandom(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	var c compactor
	for range 300 {
		most := 1 + rnd.IntN(200)
		kv := storedRecord(t, rnd.IntN(20), func() string {
			return strings.Repeat(string(rune('a'+rnd.IntN(2))), rnd.IntN(most))
		})
		want := mustDecode(t, kv)
		if got := c.compact(mustDecode(t, kv)); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v\nwant %+v", seed, got.Record, want.Record)
		}
	}
}

// TestCompactTakesNoLongerThanReading: the largest record that a tenant's admin can make takes about as long as it takes to
// read. All tenants' changes, revocations among them, wait behind it.
func TestCompactTakesNoLongerThanReading(t *testing.T) {
	i := 0
	kv := storedRecord(t, 300, func() string { i++; return fmt.Sprint(strings.Repeat("a", 120), i) })
	var c compactor
	reading, packing := time.Hour, time.Hour // the least of some, as the machine may be busy
	for range 5 {
		began := time.Now()
		e := mustDecode(t, kv)
		reading = min(reading, time.Since(began))
		began = time.Now()
		c.compact(e)
		packing = min(packing, time.Since(began))
	}
	if packing > 12*reading {
		t.Errorf("%d bytes: to read them takes %s, to compact what was read %s", len(kv.Value), reading, packing)
	}
	t.Logf("%d bytes: read in %s, compacted in %s", len(kv.Value), reading, packing)
}
