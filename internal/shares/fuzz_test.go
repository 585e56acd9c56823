package shares_test

import (
	"testing"

	"github.com/polygate/polygate/internal/shares"
	"github.com/polygate/polygate/internal/tenant"
)

// FuzzHandle: whatever a replica asks, it is answered or refused, and this one's own parts stay within the whole.
func FuzzHandle(f *testing.F) {
	f.Add([]byte(`{"v":1,"run":"a","items":[{"t":"team-a","u":"u","n":7207200,"at":5,"l":-1,"e":9}],"wants":[{"t":"team-a","u":"u"}]}`))
	f.Add([]byte(`{"v":1,"run":"a","items":[{"t":"","at":-1,"n":9223372036854775807,"f":9223372036854775807,"s":9223372036854775807}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := shares.New(shares.Config{
			Replica: "r0", Replicas: func() []string { return []string{"r0", "r1"} }, Keeper: func(tenant.ID) string { return "r0" },
		})
		for range 2 {
			if reply, err := s.Handle(t.Context(), "r1", body); err == nil && len(reply) == 0 {
				t.Error("no answer and no error")
			}
		}
		if p := s.Part(tenant.Confine("team-a", "u")); p.Share < 0 || p.Share > 1 {
			t.Errorf("part %+v", p)
		}
	})
}
