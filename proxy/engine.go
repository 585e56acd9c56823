package proxy

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
)

// EngineConfig is what a ReverseProxyEngine is made with.
type EngineConfig struct {
	// DialContext returns how to dial: upstreams that an operator declared (trusted), and others. Required.
	DialContext func(trusted bool) func(ctx context.Context, network, addr string) (net.Conn, error)
	RootCAs     *x509.CertPool // who may certify upstreams; nil = the system's
	// HeaderTimeout is how long to wait for a response's header after the last of the request was sent, where the relay does
	// not say. 0 = 5 minutes.
	HeaderTimeout time.Duration
	// ReconnectGrace is how long a relay that is no stream goes on after its Live has ended with an *exchange.Reconnect. 0 = 10s.
	ReconnectGrace time.Duration
	Pools          int          // upstream pools kept open, over all tenants; 0 = 1024
	Logger         *slog.Logger // nil = slog.Default()
}

// ReverseProxyEngine is the Engine on httputil.ReverseProxy and net/http. It is safe for concurrent use.
type ReverseProxyEngine struct {
	pools         *pools
	buffers       *buffers
	headerTimeout time.Duration
	grace         time.Duration // EngineConfig.ReconnectGrace
	log           *log.Logger
}

// NewReverseProxyEngine checks cfg and returns an engine. Close it after the last relay.
func NewReverseProxyEngine(cfg EngineConfig) (*ReverseProxyEngine, error) {
	if cfg.DialContext == nil {
		return nil, errors.New("proxy: EngineConfig.DialContext is missing")
	}
	or(&cfg.HeaderTimeout, 5*time.Minute)
	or(&cfg.ReconnectGrace, 10*time.Second)
	or(&cfg.Pools, 1024)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	p, err := newPools(cfg.Pools, cfg)
	if err != nil {
		return nil, err
	}
	return &ReverseProxyEngine{pools: p, buffers: &buffers{}, headerTimeout: cfg.HeaderTimeout, grace: cfg.ReconnectGrace,
		log: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)}, nil
}

// Close closes the idle connections to all upstreams.
func (e *ReverseProxyEngine) Close() { e.pools.close() }

// errHeaderTimeout is the cause of a relay whose upstream does not answer.
var errHeaderTimeout = fault.New(fault.UpstreamTimeout, "the upstream did not answer in time")

// Relay implements Engine.
func (e *ReverseProxyEngine) Relay(w http.ResponseWriter, r *http.Request, d *exchange.Relay) {
	c := &call{e: e, w: w, d: d, client: r}
	// The end of the client's context is not the upstream's at once: a stream that is told to come again ends with a message.
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer c.finish()
	defer c.follow(r.Context(), func() error { return context.Cause(r.Context()) })()
	if d.Live != nil {
		defer c.follow(d.Live, func() error { return liveCause(d.Live) })()
	}
	c.proxy = httputil.ReverseProxy{Rewrite: keep, Transport: c, ModifyResponse: c.edit, ErrorHandler: c.fail,
		BufferPool: e.buffers, ErrorLog: e.log}
	c.proxy.ServeHTTP(w, c.inbound())
}

// liveCause returns why live has ended. A cause of no kind is a claim that was lost or a gateway that closed: no defect, and
// worth a retry.
func liveCause(live context.Context) error {
	cause := context.Cause(live)
	if r := departing(live); r != nil {
		return r
	}
	if k := fault.KindOf(cause); k != fault.Internal && k != fault.Canceled {
		return cause
	}
	return fault.Wrap(fault.Unavailable, cause, "this tenant's gateway has just moved or closed: try again").After(time.Second)
}

// keep is the Rewrite of a request that is built elsewhere. That there is one makes ReverseProxy believe no header that
// Connection lists.
func keep(*httputil.ProxyRequest) {}

// call is one relay. It is the Transport of its own ReverseProxy.
type call struct {
	e      *ReverseProxyEngine
	w      http.ResponseWriter
	d      *exchange.Relay
	client *http.Request
	wait   time.Duration // for the response header
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // until the response header
	header atomic.Bool // the header is there: the timer means nothing any more
	body   relayBody
	answer answerBody
	proxy  httputil.ReverseProxy
	out    exchange.Outcome
	end    relayEnd
}

// inbound returns the request that ReverseProxy is to start from: the relay's header and nothing of the client's.
func (c *call) inbound() *http.Request {
	h := http.Header(c.d.Header)
	if h == nil {
		h = make(http.Header)
	}
	delete(h, "Connection")
	delete(h, "Upgrade")
	if c.d.Upgrade {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	r := c.client.WithContext(c.ctx)
	r.Method, r.Header, r.Trailer, r.Body, r.ContentLength = c.d.Method, h, nil, nil, 0
	r.TransferEncoding, r.Form, r.PostForm, r.MultipartForm = nil, nil, nil, nil
	return r
}

// RoundTrip implements http.RoundTripper: it sends what the relay says, and judges what comes back.
func (c *call) RoundTrip(out *http.Request) (*http.Response, error) {
	c.address(out)
	if !c.d.Interim {
		out = out.WithContext(c.ctx) // without the trace by which ReverseProxy learns of interim responses
	}
	forward(out.Header, c.client)
	c.attach(out)
	up, err := c.e.pools.get(&c.d.Target, c.d.Upgrade)
	if err != nil {
		return nil, err
	}
	c.arm()
	res, err := up.RoundTrip(out)
	c.header.Store(true)
	c.timer.Stop()
	if err != nil {
		return nil, up.explain(err, c.d.Target.Secure)
	}
	if !up.answered.Load() { // written once, not by every request
		up.answered.Store(true)
	}
	if err := c.judge(res); err != nil {
		_ = res.Body.Close() // with its connection: nothing that follows on it is read
		return nil, err
	}
	return res, nil
}

// address points out at the target. Opaque makes net/http write the path as it is: URL.Path would be encoded anew, into
// bytes that nobody judged.
func (c *call) address(out *http.Request) {
	t := &c.d.Target
	out.URL = &url.URL{Scheme: t.Scheme, Host: t.Authority, Opaque: c.d.Path, RawQuery: c.d.Query}
	out.Host = c.d.Host
	if out.Host == "" {
		out.Host = t.Authority
	}
}

// forward says on whose behalf we ask (RFC 7239, and the older fields that everybody reads). What the client said in them
// is gone.
func forward(h http.Header, client *http.Request) {
	addr := remoteAddr(client)
	from := "unknown"
	if addr.IsValid() {
		from = addr.String()
		h["X-Forwarded-For"] = []string{from}
		if addr.Is6() {
			from = `"[` + from + `]"`
		}
	}
	h["X-Forwarded-Host"] = []string{client.Host}
	h["X-Forwarded-Proto"] = []string{"https"}
	h["Forwarded"] = []string{"for=" + from + `;host="` + client.Host + `";proto=https`}
}

// attach gives out its body.
func (c *call) attach(out *http.Request) {
	out.ContentLength = c.d.Length
	if c.d.Length == 0 || len(c.d.Prefix) == 0 && c.d.Rest == nil {
		out.Body, out.ContentLength = http.NoBody, 0
		return
	}
	if len(c.d.Prefix) > 0 {
		delete(out.Header, "Expect") // part of the body was read: the client got its 100 already
	}
	if p := c.d.Prefix; c.d.Rest == nil || c.d.Length == int64(len(p)) {
		c.body.n.Store(int64(len(p)))
		out.ContentLength = int64(len(p))
		out.Body = io.NopCloser(bytes.NewReader(p)) // net/http knows it, and sends header and body in one piece
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p)), nil }
		return
	}
	c.body.c, c.body.prefix = c, c.d.Prefix
	out.Body = &c.body
	out.GetBody = c.rewind
}

// rewind lets net/http send again what met a connection that the upstream had closed just then. That is possible as long
// as the client's part of the body was not begun.
func (c *call) rewind() (io.ReadCloser, error) {
	if c.body.begun.Load() {
		return nil, errors.New("the body was sent in part")
	}
	again := &relayBody{c: c, prefix: c.d.Prefix}
	return again, nil
}

// arm starts the wait for the response's header. While the request's body goes out, each part of it starts it anew.
func (c *call) arm() {
	d := c.d.HeaderTimeout
	or(&d, c.e.headerTimeout)
	c.wait = d
	c.timer = time.AfterFunc(d, func() {
		if !c.header.Load() {
			c.cancel(errHeaderTimeout)
		}
	})
}

// rearm starts the wait anew, unless it is over.
func (c *call) rearm() {
	if c.timer.Stop() {
		c.timer.Reset(c.wait)
	}
}

// judge refuses a switch of protocols that was not asked for: httputil would open a raw tunnel (case X20).
func (c *call) judge(res *http.Response) error {
	scrubResponse(res.Header)
	if res.StatusCode < 100 { // net/http reads 099 as readily as it panics when it is to write it
		return fault.New(fault.BadUpstream, "the upstream answered with a status that is none")
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if !c.d.Upgrade || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
			return fault.New(fault.BadUpstream, "the upstream switched to a protocol that nobody asked for")
		}
		return c.upgrade()
	}
	c.answer.ReadCloser, c.answer.src = res.Body, res.Body
	res.Body = &c.answer
	c.stream(res)
	// A short answer of known length goes out in one piece; everything else, part by part as it comes.
	c.proxy.FlushInterval = -1
	if res.ContentLength >= 0 && res.ContentLength <= bufferSize/2 {
		c.proxy.FlushInterval = 0
	}
	return nil
}

// edit is the ReverseProxy's ModifyResponse.
func (c *call) edit(res *http.Response) error {
	if c.d.EditResponse != nil {
		if err := c.d.EditResponse(res.StatusCode, exchange.Header(res.Header)); err != nil {
			return fault.From(err) // ours, not the upstream's
		}
	}
	c.out.Status = res.StatusCode
	return nil
}

// fail is the ReverseProxy's ErrorHandler: no response has begun, unless the connection was taken over.
func (c *call) fail(w http.ResponseWriter, _ *http.Request, err error) {
	e := c.classify(err)
	c.out.Status, c.out.Err = e.Kind.Status(), e
	if f, ok := w.(*flight); ok && f.status != 0 || e.Kind == fault.Canceled {
		panic(http.ErrAbortHandler)
	}
	id := w.Header().Get("X-Request-Id")
	clear(w.Header()) // a response that was refused may have left something
	w.Header().Set("X-Request-Id", id)
	if c.d.RenderError != nil {
		write(w, c.d.RenderError(e, id))
		return
	}
	problem.Write(w, e, id)
}

// write answers with a reply.
func write(w http.ResponseWriter, d *exchange.Reply) {
	for name, v := range d.Header {
		w.Header()[name] = v
	}
	w.WriteHeader(d.Status)
	_, _ = w.Write(d.Body) // the client went away: nobody is left to tell
}

// classify finds out whose fault an error is. What ended the exchange on purpose comes first, then the client's own doing,
// then the upstream's.
func (c *call) classify(err error) *fault.Error {
	if e := c.cause(); e != nil {
		return e
	}
	if e := c.body.failed.Load(); e != nil {
		return e
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return known
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fault.Wrap(fault.UpstreamTimeout, err, "the upstream could not be reached in time")
	}
	return fault.Wrap(fault.BadUpstream, err, "the upstream could not be reached, or broke off")
}

// finish ends the call however it went, and tells how.
func (c *call) finish() {
	c.body.over.Store(true)
	c.end.stop()
	if c.out.Err == nil {
		c.out.Err = c.broken()
	}
	c.cancel(nil)
	c.out.BytesIn, c.out.BytesOut = c.body.n.Load(), c.answer.n
	if c.d.Done != nil {
		c.d.Done(c.out)
	}
}

// broken says why a response that began was not relayed whole; nil if it was, or ended as streams end.
func (c *call) broken() error {
	switch {
	case c.answer.ended:
		return nil
	case c.cause() != nil:
		return c.cause()
	case c.out.Status == 0:
		return fault.New(fault.Internal, "the relay panicked")
	case c.out.Status == http.StatusSwitchingProtocols:
		return nil
	case c.answer.err != nil:
		return fault.Wrap(fault.BadUpstream, c.answer.err, "the upstream broke off")
	}
	return fault.New(fault.Canceled, "the client went away")
}
