package client

import "context"

// Probe makes one request for a tenant and says in plain words what is wrong with the target: it is down, untrusted, slow, or answers
// with another status or content than it should.
func (c *Client) Probe(ctx context.Context, tenant int) error {
	ctx, cancel := context.WithTimeout(ctx, c.load.Timeout)
	defer cancel()
	caller, err := c.Caller()
	if err != nil {
		return err
	}
	defer func() { _ = caller.Close() }() // its connections are the client's
	return caller.Call(ctx, tenant)
}
