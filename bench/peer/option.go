package peer

// grpcService is the path of the upstream's gRPC methods, which subjects relay over cleartext HTTP/2.
const grpcService = "/polybench.Echo/"

// Most connections that a subject may have, and those to one upstream that it keeps.
const (
	maxConnections  = 16_384
	keptConnections = 1024
)

// Option changes what a peer is configured to do.
type Option func(*options)

type options struct{ noLog bool }

// WithoutLog turns off the line per request, which every peer writes to a file by default because Polygate does: without it, the
// comparison is in the peer's favour.
func WithoutLog() Option { return func(o *options) { o.noLog = true } }

func choose(os []Option) options {
	var o options
	for _, f := range os {
		f(&o)
	}
	return o
}
