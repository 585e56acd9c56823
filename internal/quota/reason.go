package quota

// Reason says which bound refused a request. It labels metrics, so the names are stable and few.
type Reason uint8

// The reasons, from the narrowest bound to the widest.
const (
	KeyRate          Reason = iota // over the rate of one key
	KeyConcurrency                 // over the requests in flight of one key
	CallerRate                     // over the rate of one principal
	CallerConcurrent               // over the requests in flight of one principal
	TenantRate                     // over the tenant's rate
	TenantConcurrent               // over the tenant's requests in flight
	TenantBytes                    // the tenant has moved more bytes than its rate allows
	TenantStreams                  // over the tenant's open streams
	PoolRequests                   // over the tenant's share of the requests in flight on this replica
	PoolStreams                    // over the tenant's share of the streams open on this replica
)

// NumReasons is the number of reasons.
const NumReasons = int(PoolStreams) + 1

// String returns the reason's stable name.
func (r Reason) String() string {
	switch r {
	case KeyRate:
		return "key-rate"
	case KeyConcurrency:
		return "key-concurrency"
	case CallerRate:
		return "principal-rate"
	case CallerConcurrent:
		return "principal-concurrency"
	case TenantRate:
		return "rate"
	case TenantConcurrent:
		return "concurrency"
	case TenantBytes:
		return "bytes"
	case TenantStreams:
		return "streams"
	case PoolRequests:
		return "replica-requests"
	case PoolStreams:
		return "replica-streams"
	}
	return "other"
}
