package admin_test

import (
	"context"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/proxy/admin"
)

// stores is an etcd with a member at each address.
type stores struct {
	at      []string
	entries []audit.Entry
}

func (s *stores) Members(context.Context) (all []admin.StoreMember, _ error) {
	for _, a := range s.at {
		all = append(all, admin.StoreMember{Address: a})
	}
	return all, nil
}

func (s *stores) AddMember(_ context.Context, address string, e audit.Entry) error {
	s.at, s.entries = append(s.at, address), append(s.entries, e)
	return nil
}

func (s *stores) RemoveMember(_ context.Context, which string, e audit.Entry) error {
	for i, a := range s.at {
		if a == which {
			s.at, s.entries = append(s.at[:i], s.at[i+1:]...), append(s.entries, e)
			return nil
		}
	}
	return fault.New(fault.NotFound, "no member %s", which)
}

func (s *stores) Defrag(_ context.Context, e audit.Entry) error {
	s.entries = append(s.entries, e)
	return nil
}

func TestStore(t *testing.T) {
	f := newFixture(t)
	st, cfg := &stores{}, f.config()
	cfg.Storage = st
	f.rebuild(cfg)
	const members = "/api/v1/store/members"
	f.shows(200, "GET", members, "", "items", "[]")
	f.shows(200, "POST", members, `{"address":"r2.example:2380"}`, "address", `"r2.example:2380"`)
	f.want(400, "POST", members, `{"address":"2380"}`)
	f.want(400, "POST", members, `{"address":":2380"}`)
	f.want(404, "DELETE", members+"/r3", "")
	f.shows(200, "DELETE", members+"/r2.example:2380", "", "items", "[]")
	f.shows(200, "POST", "/api/v1/store/defrag", "", "items", "[]")
	var got []string
	for _, e := range st.entries {
		got = append(got, e.Action+" "+e.Resource)
	}
	if want := "replica.drain store/r2.example:2380, replica.drain store/r2.example:2380, replica.drain store"; strings.Join(got, ", ") != want {
		t.Errorf("recorded %s\nwant %s", got, want)
	}
	cfg.Storage = nil
	f.rebuild(cfg)
	f.want(503, "GET", members, "")
}
