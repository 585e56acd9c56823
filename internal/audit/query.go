package audit

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Query says which records are wanted. Zero fields match everything, but the chain must be named: by Tenant and TenantUID,
// or by Platform.
type Query struct {
	Tenant    tenant.ID // whose records
	TenantUID string    // required with Tenant: an earlier tenant of the same id is another one, whose records are not shown
	AnyUID    bool      // for operators: TenantUID is not asked for
	Platform  bool      // the platform's chain in place of a tenant's

	From      time.Time // at or after
	To        time.Time // before
	Principal string    // "kind:id"
	Action    string    // exact, or a prefix that ends in "*"
	Outcome   string
	Decision  string
	RequestID string

	Limit  int    // of a page: 1 to 1000; 0 = 100
	Cursor string // Page.Next of the page before; "" = the newest
}

// Record is an entry with its place in the log.
type Record struct {
	Entry
	Seq uint64 `json:"seq"` // in its chain
}

// Page is a part of the answer to a query, newest first.
type Page struct {
	Records []Record `json:"records"`
	Next    string   `json:"next,omitempty"`    // where the next page begins; "" = there is none
	Partial bool     `json:"partial,omitempty"` // the budget was spent before the limit was reached: ask on with Next
	Damaged int      `json:"damaged,omitempty"` // lines in the way that are not what was written: see Verify
}

// ReaderConfig is what a reader is made with.
type ReaderConfig struct {
	Dir    string           // the folder: every *.jsonl in it is read, of all replicas, past and present
	Bytes  int64            // read by one Query at most, but for one line; 0 = 32 MiB
	Budget time.Duration    // that one Query takes; 0 = 1 s
	Now    func() time.Time // nil = time.Now
}

// Reader answers queries from the files of a folder, beside the drains that write them.
type Reader struct{ cfg ReaderConfig }

// NewReader checks cfg and makes a reader.
func NewReader(cfg ReaderConfig) (*Reader, error) {
	if cfg.Dir == "" {
		return nil, errors.New("audit: Dir is required: name the folder of the audit log")
	}
	return &Reader{cfg: cfg}, nil
}

// Query returns a page of records, newest first.
func (r *Reader) Query(ctx context.Context, q Query) (*Page, error) {
	return nil, errors.New("audit: not built yet")
}

// Each calls f with every record that matches q, newest first, until f returns an error, which it returns.
func (r *Reader) Each(ctx context.Context, q Query, f func(Record) error) error {
	return errors.New("audit: not built yet")
}

// Warm makes the indexes of closed segments that have none, so that no query has to.
func (r *Reader) Warm(ctx context.Context) error { return nil }

// Encoder writes records in one of the export formats. Close writes what is left, and closes nothing below.
type Encoder interface {
	Encode(Record) error
	Close() error
}

// NewCSV returns an encoder of CSV with a header line.
func NewCSV(w io.Writer) Encoder { return nil }

// NewJSONLines returns an encoder of one JSON object per line.
func NewJSONLines(w io.Writer) Encoder { return nil }
