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

// allSecrets is where the keys that wrap the platform's secrets are.
const allSecrets = "/api/v1/secrets" //nolint:gosec // a path

// Secrets knows what the key-encryption keys wrap, and changes from one to another. It is safe for concurrent use.
type Secrets interface {
	// Secrets counts what each key wraps.
	Secrets(ctx context.Context) (SecretStatus, error)
	// Rekey has everything wrapped by a key, "" = the one that is wanted first, or resumes that. It returns when that has begun,
	// recorded by the entry. fault.Conflict where a replica lacks the key, or another change is under way.
	Rekey(ctx context.Context, to string, e audit.Entry) error
}

// SecretStatus is the key-encryption keys, by their ids, and the last change of the one in force.
type SecretStatus struct {
	Keys  []SecretKey  `json:"keys"`
	Rekey *RekeyStatus `json:"rekey,omitempty"` // none = there never was any
}

// SecretKey is one key-encryption key. The key itself is in files alone.
type SecretKey struct {
	ID      string `json:"id"`
	InForce bool   `json:"in_force"` // replicas without it do not start
	InFile  bool   `json:"in_file"`  // whether the kek_file of the replica that answers holds it
	Wraps   int    `json:"wraps"`    // how many stored secrets it wraps
}

// RekeyStatus is a change of the key in force.
type RekeyStatus struct {
	To      string    `json:"to"`
	State   string    `json:"state"`   // running, done, or stopped: run again, it goes on
	Replica string    `json:"replica"` // which carries it out
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"` // why it stopped
}

// RekeyRequest is the body of a change.
type RekeyRequest struct {
	Key string `json:"key,omitempty"` // the id; default: the first line of kek_file
}

func (s *Server) secretRoutes() []Route {
	return []Route{
		{http.MethodGet, allSecrets, authz.StatusRead, "read which key-encryption key wraps how much", s.getSecrets},
		{http.MethodPost, allSecrets + "/rekey", authz.SecretRekey, "have everything wrapped by another key-encryption key", s.rekey},
	}
}

func (s *Server) getSecrets(c *call) (*answer, error) {
	var status SecretStatus
	err := c.read(authz.StatusRead, "secrets", tenant.Scope{}, func() (err error) {
		if s.cfg.Secrets == nil {
			return noSecrets()
		}
		status, err = s.cfg.Secrets.Secrets(c.ctx)
		return err
	})
	return &answer{status: http.StatusOK, body: status}, err
}

func (s *Server) rekey(c *call) (*answer, error) {
	var req RekeyRequest
	if err := decode(c.http, &req, true); err != nil {
		return nil, err
	}
	err := c.change(authz.SecretRekey, "secrets", tenant.Scope{}, func(e audit.Entry) error {
		if s.cfg.Secrets == nil {
			return noSecrets()
		}
		return s.cfg.Secrets.Rekey(c.ctx, req.Key, e)
	})
	if err != nil {
		return nil, err
	}
	status, err := s.cfg.Secrets.Secrets(c.ctx)
	return &answer{status: http.StatusAccepted, body: status}, err
}

func noSecrets() error {
	return fault.New(fault.Unavailable, "this gateway is not configured to change its key-encryption key")
}
