package admin

import (
	"context"
	"net"
	"net/http"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// allMembers is where the members of the registry's store are.
const allMembers = "/api/v1/store/members"

// Storage is the etcd under the registry. It is safe for concurrent use. Each change is recorded by its entry.
type Storage interface {
	// Members returns the members as the cluster knows them.
	Members(ctx context.Context) ([]StoreMember, error)
	// AddMember takes a member into the embedded cluster, which is then to be started without data.
	AddMember(ctx context.Context, address string, e audit.Entry) error
	// RemoveMember takes one out, by name or address.
	RemoveMember(ctx context.Context, which string, e audit.Entry) error
	// Defrag compacts the history, defragments every member, and takes back the NOSPACE alarm. A store that is full takes the
	// entry only after that.
	Defrag(ctx context.Context, e audit.Entry) error
}

// StoreMember is one member of the registry's store.
type StoreMember struct {
	Name    string `json:"name,omitempty"` // none: it was added, and has not been started yet
	Address string `json:"address"`
}

// StoreMemberList is all of them.
type StoreMemberList struct {
	Items []StoreMember `json:"items"`
}

// StoreMemberRequest says where the new one listens for the others.
type StoreMemberRequest struct {
	Address string `json:"address"`
}

func (s *Server) storeRoutes() []Route {
	return []Route{
		{http.MethodGet, allMembers, authz.ReplicaRead, "list the members of the registry's store", s.listStoreMembers},
		{http.MethodPost, allMembers, authz.ReplicaDrain, "take a member into the embedded etcd cluster", s.addStoreMember},
		{http.MethodDelete, allMembers + "/{member}", authz.ReplicaDrain, "take a member out of the embedded etcd cluster", s.removeStoreMember},
		{http.MethodPost, "/api/v1/store/defrag", authz.ReplicaDrain, "give back what the registry's store does not need", s.defrag},
	}
}

func (s *Server) storage() (Storage, error) {
	if s.cfg.Storage == nil {
		return nil, fault.New(fault.Unavailable, "this gateway is not configured to look after its etcd")
	}
	return s.cfg.Storage, nil
}

func (s *Server) listStoreMembers(c *call) (*answer, error) {
	list := StoreMemberList{Items: []StoreMember{}}
	err := c.read(authz.ReplicaRead, "store", tenant.Scope{}, func() error {
		st, err := s.storage()
		if err != nil {
			return err
		}
		all, err := st.Members(c.ctx)
		list.Items = append(list.Items, all...)
		return err
	})
	return &answer{status: http.StatusOK, body: list}, err
}

// changeStore admits and makes a change, and answers with the members that there are then.
func (s *Server) changeStore(c *call, resource string, change func(st Storage, e audit.Entry) error) (*answer, error) {
	list := StoreMemberList{Items: []StoreMember{}}
	err := c.change(authz.ReplicaDrain, resource, tenant.Scope{}, func(e audit.Entry) error {
		st, err := s.storage()
		if err != nil {
			return err
		}
		return change(st, e)
	})
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Storage.Members(c.ctx)
	list.Items = append(list.Items, all...)
	return &answer{status: http.StatusOK, body: list}, err
}

func (s *Server) addStoreMember(c *call) (*answer, error) {
	var req StoreMemberRequest
	if err := decode(c.http, &req, false); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(req.Address)
	if err != nil || host == "" || tenant.CheckSegment(req.Address) != nil {
		return nil, fault.New(fault.Invalid, "address %.80q is to be host:port, at which the other members reach the new one", req.Address)
	}
	return s.changeStore(c, "store/"+req.Address, func(st Storage, e audit.Entry) error { return st.AddMember(c.ctx, req.Address, e) })
}

func (s *Server) removeStoreMember(c *call) (*answer, error) {
	which := c.args["member"]
	resource := "store"
	if tenant.CheckSegment(which) == nil {
		resource += "/" + which
	}
	return s.changeStore(c, resource, func(st Storage, e audit.Entry) error { return st.RemoveMember(c.ctx, which, e) })
}

func (s *Server) defrag(c *call) (*answer, error) {
	if err := decode(c.http, &struct{}{}, true); err != nil {
		return nil, err
	}
	return s.changeStore(c, "store", func(st Storage, e audit.Entry) error { return st.Defrag(c.ctx, e) })
}
