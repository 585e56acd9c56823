package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"
)

// requestTimeout is how long a client waits; what is not answered by then may have happened, or may happen yet.
const requestTimeout = 5 * time.Second

// answer is a response read whole, or the reason why there is none.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	err     error
	replica string // who was asked
}

// errNobody says that no replica took the connection: nothing was sent.
var errNobody = errors.New("no replica takes connections")

// send makes one request. Whatever the transport repeats had not reached a server, or changes nothing (RFC 9110 §9.2.2).
func send(ctx context.Context, c *http.Client, method, target string, body any, headers ...string) answer {
	var rd io.Reader
	if body != nil {
		enc, err := json.Marshal(body)
		if err != nil {
			return answer{err: err}
		}
		rd = bytes.NewReader(enc)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, rd)
	if err != nil {
		return answer{err: err}
	}
	if rd != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: b, err: err}
}

func dialTo(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

// tenantURL is where a tenant is reached: mostly on the shared host, where all tenants share connections, else on its own.
func tenantURL(tenant, path string, own bool) string {
	if own {
		return "https://" + tenant + ".localhost" + path
	}
	return "https://localhost/tenant/" + tenant + path
}

// balanced sends a request as a tenant's admin to any replica that is ready, or blindly to any at all. Only where a
// connection is refused, another is asked.
func (f *fleet) balanced(rng *rand.Rand, blind bool, patience time.Duration, tenant int, method, path string, body any) answer {
	order := rng.Perm(len(f.replicas))
	for _, i := range order {
		if r := f.replicas[i]; blind || r.ready.Load() {
			if got := f.ask(r, patience, tenant, method, path, body, rng.IntN(10) == 0); !refused(got.err) {
				return got
			}
		}
	}
	return answer{err: errNobody}
}

// ask sends a request as a tenant's admin to one replica.
func (f *fleet) ask(r *replica, patience time.Duration, tenant int, method, path string, body any, own bool) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := send(ctx, r.client, method, tenantURL(tenantName(tenant), path, own), body, "Authorization", "Bearer "+f.keys[tenant])
	got.replica = r.name
	return got
}

// refused says that nothing was sent: nobody listened.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED)
}

// anyOperator sends a request to the operators' listener of a replica that is ready.
func (f *fleet) anyOperator(rng *rand.Rand, method, path string, body any, headers ...string) answer {
	for _, i := range rng.Perm(len(f.replicas)) {
		if r := f.replicas[i]; r.ready.Load() {
			if got := r.operator(method, path, body, headers...); !refused(got.err) {
				got.replica = r.name
				return got
			}
		}
	}
	return answer{err: errNobody}
}
