// Package client makes the requests of a load: each in its own protocol, inside TLS with the tenant's host as server name, with the
// tenant's credential, and checks each answer by the canary that only that tenant's upstream gives. It leaves when and to whom a request
// goes to bench/load, and where tokens come from to bench/credential.
package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// Tenant is one to whom requests go.
type Tenant struct {
	Name   string // in messages
	Host   string // server name, and Host of each request
	Addr   string // host:port that is dialled
	Canary string // what each right answer holds exactly once; "" = answers are judged by their status alone
	Key    string // its API key, for loads with the credential "key" when Config.Credential is nil
}

// Config is what a client is made of.
type Config struct {
	Load       scenario.Load // as scenario.Parse returns it, with its defaults
	Tenants    []Tenant      // by number
	Roots      *x509.CertPool
	Credential credential.Source   // nil: the tenants' keys where the load's credential is "key", else none
	Handshake  func(time.Duration) // told the time of each TCP connect and TLS handshake together; nil = nobody; must be safe for concurrent use
	Own        bool                // whoever runs this owns the target: addresses may be public. Else the dialler refuses them
}

// Client makes the requests of one load. It is safe for concurrent use.
type Client struct {
	config  Config
	bytesIn atomic.Int64
}

// New checks a configuration and returns a client. It connects to nothing yet.
func New(c Config) (*Client, error) {
	if len(c.Tenants) == 0 {
		return nil, errors.New("a load needs a tenant: name one at least")
	}
	return &Client{config: c}, nil
}

// Caller returns a caller for one goroutine. Callers share the client's connections.
func (c *Client) Caller() (load.Caller, error) { return nil, errors.New("not built yet") }

// Probe makes one request for a tenant, on a connection of its own, and says in plain words what is wrong with the target.
func (c *Client) Probe(ctx context.Context, tenant int) error { return errors.New("not built yet") }

// BytesIn returns how many bytes have been read from connections, TLS included.
func (c *Client) BytesIn() int64 { return c.bytesIn.Load() }

// Close ends all connections. Requests that are under way fail.
func (c *Client) Close() error { return nil }

// GuardTarget returns an error if a host:port has an address that is neither loopback, nor private, nor link-local, nor a unique local
// one, unless whoever runs this owns the target. It is for saying so early: the dialler checks each address that it connects to.
func GuardTarget(ctx context.Context, addr string, own bool) error {
	return fmt.Errorf("%s: not built yet", addr)
}

// Foreign is an answer that held what belongs to another tenant. It ends the run.
type Foreign struct {
	Tenant string // to whom the request went
	Other  string // whose canary came; "" = of nobody that is known
	Canary string
}

// Error says whose canary came.
func (f *Foreign) Error() string { return "foreign" }

// StopsRun ends the run: no figure may hide this.
func (f *Foreign) StopsRun() bool { return true }

// Class is for counting.
func (f *Foreign) Class() string { return "foreign canary" }
