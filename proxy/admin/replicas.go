package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Cluster knows the replicas of the platform, and has tenants move between them.
type Cluster interface {
	// Replicas returns those whose session is live, sorted by name.
	Replicas() []Replica
	// Owner says who serves a tenant: nobody, if it has not been used for a while, and then where it would be served.
	Owner(s tenant.Scope) Owner
	// Move has the tenant served by a replica, or by whichever suits best but its owner if to is "", and says which. What is
	// served meanwhile goes on. e is made durable before.
	Move(ctx context.Context, s tenant.Scope, to string, e audit.Entry) (replica string, err error)
	// Drain has a replica give up its tenants, which takes its time, and get no others; or lets it have some again.
	Drain(ctx context.Context, replica string, on bool, e audit.Entry) error
	// Status counts over all replicas.
	Status(ctx context.Context) (any, error)
}

// Replica is a replica whose session is live.
type Replica struct {
	Name     string    `json:"name"`
	Self     bool      `json:"self"` // the one that answers
	Address  string    `json:"address,omitempty"`
	Version  string    `json:"version,omitempty"`
	State    string    `json:"state"`    // ready or draining
	Capacity int       `json:"capacity"` // its weight among the others
	Tenants  int       `json:"tenants"`  // that it serves: has in memory, by its claim
	Requests int64     `json:"requests"` // in flight, as it said last
	Streams  int64     `json:"streams"`
	CPU      float64   `json:"cpu"`    // share of its cores, 0 to 1
	Memory   int64     `json:"memory"` // bytes
	Started  time.Time `json:"started,omitzero"`
}

// Owner is who serves a tenant.
type Owner struct {
	Tenant    tenant.ID `json:"tenant"`
	Replica   string    `json:"replica,omitempty"` // none: the tenant is not in use
	Epoch     int64     `json:"epoch,omitempty"`   // rises with each change of owner
	Preferred string    `json:"preferred"`         // who serves it next, if nobody does
}

// MoveRequest says where to.
type MoveRequest struct {
	To string `json:"to,omitempty"` // a replica's name; none = whichever suits best, but not its owner
}

// allReplicas is where the replicas are.
const allReplicas = "/api/v1/replicas"

// replicaRoutes are about the replicas, and who serves which tenant.
func (s *Server) replicaRoutes(tenants string) []Route {
	const one = allReplicas + "/{replica}"
	return []Route{
		{http.MethodGet, allReplicas, authz.ReplicaList, "list the replicas", s.listReplicas},
		{http.MethodGet, one, authz.ReplicaRead, "read a replica", s.getReplica},
		{http.MethodPost, one + "/drain", authz.ReplicaDrain, "have a replica give up its tenants and get no others", s.drainReplica(true)},
		{http.MethodPost, one + "/resume", authz.ReplicaDrain, "let a drained replica have tenants again", s.drainReplica(false)},
		{http.MethodGet, tenants + "/owner", authz.ReplicaRead, "read which replica serves a tenant", s.getOwner},
		{http.MethodPost, tenants + "/move", authz.TenantMove, "have a tenant served by another replica", s.moveTenant},
		{http.MethodGet, "/api/v1/status", authz.StatusRead, "read the numbers of all replicas together", s.status},
	}
}

// cluster returns whom to ask about replicas.
func (s *Server) cluster() (Cluster, error) {
	if s.cfg.Cluster == nil {
		return nil, fault.New(fault.Unavailable, "this gateway is not configured to have replicas")
	}
	return s.cfg.Cluster, nil
}

// ReplicaList is all replicas, sorted by name.
type ReplicaList struct {
	Items []Replica `json:"items"`
}

func (s *Server) listReplicas(c *call) (*answer, error) {
	list := ReplicaList{Items: []Replica{}}
	err := c.read(authz.ReplicaList, "replica", tenant.Scope{}, func() error {
		all, err := s.cluster()
		if err == nil {
			list.Items = append(list.Items, all.Replicas()...)
		}
		return err
	})
	return &answer{status: http.StatusOK, body: list}, err
}

// replica finds the replica of the path.
func (s *Server) replica(c *call) (Replica, error) {
	name := c.args["replica"]
	all, err := s.cluster()
	if err != nil {
		return Replica{}, err
	}
	for _, r := range all.Replicas() {
		if r.Name == name {
			return r, nil
		}
	}
	return Replica{}, fault.New(fault.NotFound, "no live replica %.64q", name)
}

func (s *Server) getReplica(c *call) (*answer, error) {
	var r Replica
	err := c.read(authz.ReplicaRead, replicaResource(c), tenant.Scope{}, func() (err error) {
		r, err = s.replica(c)
		return err
	})
	return &answer{status: http.StatusOK, body: r}, err
}

func replicaResource(c *call) string {
	name := c.args["replica"]
	if tenant.CheckSegment(name) != nil {
		return "replica"
	}
	return "replica/" + name
}

func (s *Server) drainReplica(on bool) func(*call) (*answer, error) {
	return func(c *call) (*answer, error) {
		if err := decode(c.http, &struct{}{}, true); err != nil {
			return nil, err
		}
		err := c.change(authz.ReplicaDrain, replicaResource(c), tenant.Scope{}, func(e audit.Entry) error {
			r, err := s.replica(c)
			if err != nil {
				return err
			}
			return s.cfg.Cluster.Drain(c.ctx, r.Name, on, e)
		})
		if err != nil {
			return nil, err
		}
		r, err := s.replica(c)
		return &answer{status: http.StatusOK, body: r}, err
	}
}

func (s *Server) getOwner(c *call) (*answer, error) {
	id, scope, _, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var o Owner
	err = c.read(authz.ReplicaRead, "tenant/"+string(id)+"/owner", scope, func() error {
		all, err := s.cluster()
		if missing == nil && err == nil {
			o = all.Owner(scope)
		}
		return firstError(missing, err)
	})
	return &answer{status: http.StatusOK, body: o}, err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) moveTenant(c *call) (*answer, error) {
	var req MoveRequest
	if err := decode(c.http, &req, true); err != nil {
		return nil, err
	}
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	err = c.change(authz.TenantMove, "tenant/"+string(id), scope, func(entry audit.Entry) error {
		all, err := s.cluster()
		if err := firstError(missing, err); err != nil {
			return err
		}
		if e.Record.State == tenant.StateSuspended {
			return fault.New(fault.Conflict, "tenant %s is suspended, and served by no replica: resume it first", id)
		}
		_, err = all.Move(c.ctx, scope, req.To, entry)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, body: s.cfg.Cluster.Owner(scope)}, nil
}

func (s *Server) status(c *call) (*answer, error) {
	var body any
	err := c.read(authz.StatusRead, "status", tenant.Scope{}, func() error {
		all, err := s.cluster()
		if err == nil {
			body, err = all.Status(c.ctx)
		}
		return err
	})
	return &answer{status: http.StatusOK, body: body}, err
}
