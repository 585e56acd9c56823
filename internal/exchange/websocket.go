package exchange

import "context"

// WebSocket is a Serve that goes on as a WebSocket (RFC 6455). The front makes the handshake, whose Origin it has judged already,
// answers pings and sends its own, counts the bytes against the tenant's share of bandwidth, and tells the client to come again
// (1012) where the stream ends with a Reconnect.
type WebSocket struct {
	// Subprotocols are those spoken here, the best first. A client that names none of them is refused with 400 before anything
	// has begun: two ends that mean different things by the same frames must not talk.
	Subprotocols []string
	// MaxMessage is the most bytes of a message that are read; a longer one ends the connection with 1009. 0 = 64 KiB.
	MaxMessage int64
	// Handle owns the connection until it returns, and is called exactly once: where the connection does not come about, with a
	// Conn that fails with the reason, so that what a decision holds is given back. ctx ends with the request, the
	// principal's credential and the claim. Where Handle has not closed the connection, it is closed by what it returns: nil is
	// 1000, a fault 1008, 1009, 1011 or 1013 by its kind, with its words as reason, a Reconnect 1012.
	Handle func(ctx context.Context, c Conn) error
}

// Conn is an open WebSocket. One goroutine may read while any number write.
type Conn interface {
	// Read returns the next message. io.EOF means that the client closed the connection in order (1000 or 1001).
	Read(ctx context.Context) (binary bool, p []byte, err error)
	// Write sends one message. It keeps nothing of p.
	Write(ctx context.Context, binary bool, p []byte) error
	// Subprotocol is the one agreed on.
	Subprotocol() string
	// Close sends a close frame, and waits a short while for the client's. Closing again does nothing.
	Close(code int, reason string) error
}
