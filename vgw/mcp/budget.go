package mcp

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// freeBody is the size up to which a body is not counted: the number of a tenant's requests bounds those.
const freeBody = 64 << 10

// Budget bounds the bytes of request bodies that are held at a time. A tenant that sends as many large bodies as it may
// have requests would otherwise fill the memory that all tenants share. A nil Budget is no bound.
type Budget struct {
	Max   int64
	Total *Budget // that this one is a part of; may be nil
	held  atomic.Int64
}

// take reserves n bytes, or says when to try again.
func (b *Budget) take(n int64) error {
	if b == nil {
		return nil
	}
	if b.held.Add(n) > b.Max {
		b.held.Add(-n)
		if b.Total == nil { // of all tenants: it tells nobody who uses it up
			return fault.New(fault.Unavailable, "the gateway holds too many large request bodies").After(time.Second)
		}
		return fault.New(fault.RateLimited, "over the bound of %d bytes of large request bodies at a time", b.Max).After(time.Second)
	}
	if b.Total == nil {
		return nil
	}
	if err := b.Total.take(n); err != nil {
		b.held.Add(-n)
		return err
	}
	return nil
}

// Reserve takes n bytes, or all that the budget may ever hold if that is less, for a body that is read elsewhere.
func (b *Budget) Reserve(n int64) (release func(), err error) {
	if b == nil {
		return func() {}, nil
	}
	n = min(n, b.Max)
	if err := b.take(n); err != nil {
		return nil, err
	}
	return func() { b.give(n) }, nil
}

func (b *Budget) give(n int64) {
	for ; b != nil && n != 0; b = b.Total {
		b.held.Add(-n)
	}
}

// readAll reads r to its end, or one byte over limit. What the body holds is taken from the budget as it arrives, and
// counted in c.held: a declared length reserves nothing.
func (c *call) readAll(r io.Reader, limit int64) ([]byte, error) {
	body := make([]byte, 0, 512)
	for {
		if int64(len(body)) > limit {
			return body, nil
		}
		if len(body) == cap(body) {
			next := min(int64(2*cap(body)), limit+1)
			if more := max(next, freeBody) - max(int64(cap(body)), freeBody); more > 0 {
				if err := c.h.Bodies.take(more); err != nil {
					return nil, err
				}
				c.held += more
			}
			body = append(make([]byte, 0, next), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// drop gives back what the body took.
func (c *call) drop() {
	c.h.Bodies.give(c.held)
	c.held = 0
}
