// Package peer is what replicas say to each other, and how one is named: calls of a few bytes, beside the requests that are
// forwarded. It has the words alone; the transport, mutual TLS with certificates of the replicas' own authority, is the
// front's.
package peer

import (
	"context"
	"net/url"
	"strings"
)

// The calls. Each is answered by one Handler of the replica that is asked.
const (
	Move   = "move"   // give a tenant up to a named replica
	Drain  = "drain"  // give all tenants up, or take tenants again
	Shares = "shares" // parts of tenants' limits
	Usage  = "usage"  // what a replica counted, for numbers of the whole
	Audit  = "audit"  // records of one tenant in the replica's log
	Defrag = "defrag" // defragment the replica's member of the embedded etcd
	Rekey  = "rekey"  // wrap what the replica owns with another key-encryption key
)

// Bounds of one call.
const (
	MaxRequest = 1 << 20
	MaxReply   = 16 << 20
)

// Handler answers a call. from is the name of the replica that asks, as its certificate says. The bodies are JSON that
// begins with a version; the error reaches the caller with its fault.Kind and detail.
type Handler func(ctx context.Context, from string, body []byte) ([]byte, error)

// Caller asks a live replica by name. The error is fault.Unavailable if it cannot be reached, and then the call may have
// had its effect; fault.NotFound if there is no such replica, or it does not know the call: a version before it was made.
type Caller interface {
	Call(ctx context.Context, replica, name string, body []byte) ([]byte, error)
}

// Domain is what the names in replicas' certificates end in. Nobody resolves it.
const Domain = ".replica.polygate.internal"

// ServerName returns the DNS name in a replica's certificate.
func ServerName(replica string) string { return replica + Domain }

// URI returns the URI in a replica's certificate, which says who it is (RFC 5280 §4.2.1.6).
func URI(replica string) *url.URL {
	return &url.URL{Scheme: "polygate", Host: "replica", Path: "/" + replica}
}

// FromURI returns the name of the replica that URI was made for.
func FromURI(u *url.URL) (replica string, ok bool) {
	if u.Scheme != "polygate" || u.Host != "replica" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", false
	}
	replica = strings.TrimPrefix(u.Path, "/")
	return replica, replica != "" && "/"+replica == u.Path && !strings.Contains(replica, "/")
}
