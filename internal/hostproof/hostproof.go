// Package hostproof says whether the owner of a DNS name vouches for a tenant: by a TXT record that holds the tenant's token.
// An answered ACME challenge would not do: a gateway that many tenants share answers it for whichever of them asks.
package hostproof

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// lookTime bounds one look.
const lookTime = 10 * time.Second

// retryAdvice is after how long a look that failed is worth another.
const retryAdvice = 10 * time.Second

// DNS looks for proofs in the DNS.
type DNS struct {
	resolver *net.Resolver
	look     time.Duration // bounds one look
}

// New returns a DNS that asks the given servers (host:port), each look one of them; without any, the system's.
func New(servers []string) *DNS {
	if len(servers) == 0 {
		return &DNS{net.DefaultResolver, lookTime}
	}
	servers = slices.Clone(servers)
	return &DNS{look: lookTime, resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, servers[rand.N(len(servers))]) //nolint:gosec // spreads load
		},
	}}
}

// Record returns the name at which the proof for host lies.
func Record(host string) string { return tenant.HostChallenge + "." + host }

// Check looks for the token among the TXT records at Record(host). The error is fault.Conflict if it is not there,
// and says what is, for a sentence about that record; fault.Unavailable if nobody could tell.
func (d *DNS) Check(ctx context.Context, host, token string) error {
	ctx, cancel := context.WithTimeout(ctx, d.look)
	defer cancel()
	name := Record(host)
	found, err := d.resolver.LookupTXT(ctx, name+".") // absolute: no search domains
	var dns *net.DNSError
	switch {
	case err == nil && slices.Contains(found, token):
		return nil
	case err == nil:
		return fault.New(fault.Conflict, "it is %s", show(found))
	case errors.As(err, &dns) && dns.IsNotFound:
		return fault.New(fault.Conflict, "there is none")
	}
	return fault.Wrap(fault.Unavailable, err, "the DNS did not say what is at %s: try again", name).After(retryAdvice)
}

// show quotes what was found, cut to a length that an answer can have.
func show(found []string) string {
	const most, longest = 4, 80
	var quoted []string
	for _, t := range found[:min(len(found), most)] {
		if len(t) > longest {
			t = t[:longest] + "…"
		}
		quoted = append(quoted, `"`+strings.ToValidUTF8(strings.Map(printable, t), "?")+`"`)
	}
	if len(found) > most {
		quoted = append(quoted, "…")
	}
	return strings.Join(quoted, ", ")
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}
