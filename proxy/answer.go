package proxy

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// carryOut answers as was decided.
func (f *flight) carryOut(d exchange.Decision) error {
	switch d := d.(type) {
	case *exchange.Reply:
		return f.reply(d)
	case *exchange.Relay:
		return f.relay(d)
	case *exchange.Serve:
		return f.handle(d)
	}
	return fault.Wrap(fault.Internal, errors.New("a decision that is none"), "")
}

// reply sends bytes that are ready.
func (f *flight) reply(d *exchange.Reply) error {
	f.err = d.Err
	h := f.w.Header()
	for name, v := range d.Header {
		h[name] = v
	}
	if d.Status != http.StatusNoContent && d.Status != http.StatusNotModified {
		h["Content-Length"] = []string{strconv.Itoa(len(d.Body))}
	}
	f.WriteHeader(d.Status)
	if len(d.Body) == 0 || f.r.Method == http.MethodHead {
		return nil
	}
	if _, err := f.Write(d.Body); err != nil {
		return fault.Wrap(fault.Canceled, err, "")
	}
	return nil
}

// relay hands the request to the engine, which answers for whatever happens.
func (f *flight) relay(d *exchange.Relay) error {
	done := d.Done
	ctx, span := f.s.cfg.Tracer.Start(f.ctx, "relay")
	if d.Header == nil {
		d.Header = exchange.Header{}
	}
	f.s.cfg.Tracer.Inject(ctx, http.Header(d.Header))
	d.Done = func(o exchange.Outcome) {
		span.End(o.Err)
		f.upstreamStatus, f.err = o.Status, o.Err
		if o.Err != nil {
			f.upstreamStatus = 0
		}
		if done != nil {
			done(o)
		}
	}
	d.EditResponse = f.boundStreams(d.EditResponse)
	f.duplex()
	f.s.cfg.Engine.Relay(f, f.r, d)
	return nil
}

// boundStreams lets an answer without an end of its own begin only while the tenant's quota of streams has a place for it.
// Requests to upgrade have taken theirs.
func (f *flight) boundStreams(edit func(int, exchange.Header) error) func(int, exchange.Header) error {
	return func(status int, h exchange.Header) error {
		if edit != nil {
			if err := edit(status, h); err != nil {
				return err
			}
		}
		if f.upgrade == "" && streaming(h.Get("Content-Type")) {
			return f.visit.Stream()
		}
		return nil
	}
}

// duplex lets the response begin while the body still arrives. Without it net/http first reads what is left of the body,
// and waits for the one who is reading it already.
func (f *flight) duplex() {
	if f.bodyLeft() {
		f.duplexed = true
		_ = http.NewResponseController(f.w).EnableFullDuplex() // unsupported only by test doubles
	}
}

// bodyLeft says whether there is a part of the body on an HTTP/1.1 connection that nobody has read.
func (f *flight) bodyLeft() bool {
	return f.r.ProtoMajor == 1 && f.r.Body != nil && f.r.Body != http.NoBody && !f.body.done.Load()
}

// handle lets a handler of the gateway's run the exchange.
func (f *flight) handle(d *exchange.Serve) error {
	if d.WebSocket != nil {
		return f.serveSocket(d.WebSocket)
	}
	f.duplex()
	if f.upgrade == "" {
		if err := f.visit.Stream(); err != nil {
			_ = d.Handle(f.ctx, refused{err}) // what it holds is to be given back, and its permit settled
			return err
		}
	}
	f.becomeStream()
	err := d.Handle(f.ctx, (*stream)(f))
	r := departing(f.ctx)
	if r == nil && f.ctx.Err() == nil {
		r, _ = errors.AsType[*exchange.Reconnect](err) // what it was served by moves
	}
	if r != nil && f.status != 0 {
		return f.farewell(r)
	}
	if r != nil {
		return comeAgain(r)
	}
	if f.status == 0 && err == nil && f.ctx.Err() == nil {
		return fault.Wrap(fault.Internal, errors.New("a handler returned without an answer"), "")
	}
	if err == nil && f.ctx.Err() != nil {
		err = context.Cause(f.ctx)
	}
	return err
}

// refused is the exchange of a handler that may not begin.
type refused struct{ err error }

func (r refused) Read([]byte) (int, error)   { return 0, r.err }
func (r refused) Write([]byte) (int, error)  { return 0, r.err }
func (r refused) Start(int, exchange.Header) {}

// stream is a flight as the handler of a Serve sees it.
type stream flight

// Read implements io.Reader over the request body.
func (s *stream) Read(p []byte) (int, error) { return s.body.Read(p) }

// Start implements exchange.Stream.
func (s *stream) Start(status int, h exchange.Header) {
	f := (*flight)(s)
	if f.status != 0 {
		return
	}
	for name, v := range h {
		f.w.Header()[name] = v
	}
	f.frames = framingOf(h.Get("Content-Type"), h.Get("Content-Encoding"))
	f.WriteHeader(status)
	_ = f.FlushError() // the next Write fails as well
}

// Write implements exchange.Stream.
func (s *stream) Write(p []byte) (int, error) {
	f := (*flight)(s)
	if err := f.ctx.Err(); err != nil {
		return 0, context.Cause(f.ctx)
	}
	n, err := f.Write(p)
	if f.frames != nil {
		f.frames.pass(p[:n])
	}
	if err != nil {
		return n, err
	}
	return n, f.FlushError()
}
