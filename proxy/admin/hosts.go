package admin

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
)

// pendingLife is how long a host waits for the proof of its ownership. After that it is forgotten.
const pendingLife = 7 * 24 * time.Hour

// Host is a host of a tenant, or one that it asked for. The value of the TXT record is no secret: it is published.
type Host struct {
	Host       string    `json:"host"`
	State      string    `json:"state"`       // active, or pending until it is proven to be the tenant's
	DeclaredBy string    `json:"declared_by"` // platform: every tenant has it; operator: declared; tenant: asked for
	File       string    `json:"file,omitempty"`
	Created    time.Time `json:"created,omitzero"` // while pending
	Expires    time.Time `json:"expires,omitzero"`
	TXTName    string    `json:"txt_name,omitempty"`
	TXTValue   string    `json:"txt_value,omitempty"`
	LastCheck  time.Time `json:"last_check,omitzero"`
	LastError  string    `json:"last_error,omitempty"`
}

// HostList is all hosts of a tenant, sorted.
type HostList struct {
	Items []Host `json:"items"`
}

func (s *Server) listHosts(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var list HostList
	err = c.read(authz.HostList, "tenant/"+string(id)+"/host", scope, func() error {
		if missing == nil {
			list = s.renderHosts(e.Record)
		}
		return missing
	})
	return &answer{status: http.StatusOK, body: list}, err
}

func (s *Server) renderHosts(r *tenant.Record) HostList {
	list := HostList{Items: []Host{}}
	if s.cfg.BaseDomain != "" {
		list.Items = append(list.Items, Host{Host: tenant.OwnHost(r.ID, s.cfg.BaseDomain), State: "active", DeclaredBy: "platform"})
	}
	for _, h := range r.Hosts {
		v := Host{Host: h, State: "active", DeclaredBy: "operator", File: r.File}
		if slices.Contains(r.ProvenHosts, h) {
			v.DeclaredBy, v.File = "tenant", ""
		}
		list.Items = append(list.Items, v)
	}
	for i := range r.PendingHosts {
		p := &r.PendingHosts[i]
		ends := p.Created.Add(pendingLife)
		if !s.cfg.Now().Before(ends) {
			continue
		}
		list.Items = append(list.Items, Host{
			Host: p.Host, State: "pending", DeclaredBy: "tenant", Created: p.Created, Expires: ends,
			TXTName: tenant.HostChallenge + "." + p.Host, TXTValue: p.Token, LastCheck: p.LastCheck, LastError: p.LastError,
		})
	}
	slices.SortFunc(list.Items, func(a, b Host) int { return strings.Compare(a.Host, b.Host) })
	return list
}
