package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
)

// hop is a request's way between replicas.
type hop struct {
	from    *visitor             // who forwarded it here; nil for a client's own connection
	to      string               // whom it was forwarded to; "" = nobody
	passed  bool                 // the other replica's answer is the client's
	body    *replay              // what is forwarded of the body
	here    *attempt             // the body for this replica's own gateway, once it was forwarded; nil = it was not
	transit *guard.Transit       // its place among this replica's requests; nil = none is held
	upgrade atomic.Pointer[link] // over which it is, or becomes, a WebSocket; nil = it is none
}

// added is how many fields the replica that forwarded a request has put into its header: those of a trace.
func (h *hop) added() int {
	if h.from == nil {
		return 0
	}
	return 2
}

// tryThere forwards the request. A *notServed error means that nothing of it was done and that it can be sent once more.
func (f *flight) tryThere(loc Location) error {
	if err := f.enterTransit(); err != nil {
		return err
	}
	if f.hop.body == nil {
		f.hop.body = &replay{src: &f.body}
	}
	k, err := f.s.peers.links.to(loc.Replica, loc.Address)
	if err != nil {
		return &notServed{err}
	}
	f.hop.to = loc.Replica
	f.duplex()
	f.passMetrics()
	err = f.forward(k)
	if !f.hop.passed {
		f.keepMetrics()
	}
	return err
}

// forward sends the request over k and passes the answer on.
func (f *flight) forward(k *link) error {
	ctx, span := f.s.cfg.Tracer.Start(f.ctx, "forward")
	var t transfer
	err := f.ask(t.begin(f, ctx), &t, k)
	t.end()
	span.End(err)
	return err
}

func (f *flight) ask(ctx context.Context, t *transfer, k *link) error {
	out, err := f.outgoing(ctx, k)
	if err != nil {
		return err
	}
	defer out.Body.Close()
	f.s.cfg.Tracer.Inject(ctx, out.Header)
	way := k.streams
	if f.upgrade != "" {
		way = k.upgrades
		f.hop.upgrade.Store(k)
		defer f.hop.upgrade.Store(nil)
	}
	res, err := way.RoundTrip(out)
	if err != nil {
		return f.unanswered(err)
	}
	defer res.Body.Close()
	if why := res.Header.Get(refusalHeader); why != "" {
		return f.refusedThere(k, why)
	}
	f.hop.passed, f.upstreamStatus = true, res.StatusCode
	return f.passOn(res, t)
}

// outgoing makes the request to the other replica: the client's, byte for byte where we judged bytes.
func (f *flight) outgoing(ctx context.Context, k *link) (*http.Request, error) {
	pass, ok := f.r.Context().Value(passportsKey{}).(*passports)
	if !ok {
		return nil, fault.New(fault.Internal, "a request that did not come on the public listener is not forwarded")
	}
	text, err := pass.get(f, k)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "https", Host: k.address, Opaque: f.target.path, RawQuery: f.target.query, ForceQuery: f.target.mark}
	out := (&http.Request{Method: f.r.Method, URL: u, Host: f.r.Host, Header: f.outgoingHeader(text), Body: http.NoBody}).WithContext(ctx)
	if f.r.Body == nil || f.r.Body == http.NoBody || f.r.ContentLength == 0 {
		return out, nil
	}
	body, ok := f.hop.body.attempt()
	if !ok { // the attempt before was still reading when it was given up
		return nil, errBodySpent
	}
	out.Body, out.ContentLength = body, f.r.ContentLength
	out.GetBody = func() (io.ReadCloser, error) { // for a connection that takes no more requests
		again, ok := f.hop.body.attempt()
		if !ok {
			return nil, errors.New("the body was sent in part")
		}
		return again, nil
	}
	if f.r.ContentLength > keptBody && out.Header["Expect"] == nil { // a body that could not be sent twice waits to be wanted
		out.Header["Expect"], out.Header[expectHeader] = []string{"100-continue"}, []string{"1"}
	}
	return out, nil
}

// outgoingHeader is the client's header, less what ends at this hop. What names the tenant and who asks stays whole, for the
// owner to judge again, even where Connection lists it.
func (f *flight) outgoingHeader(pass string) http.Header {
	in := f.r.Header
	listed := f.listedByConnection()
	out := make(http.Header, len(in)+4)
	for name, v := range in {
		if plainFieldName(name) && !hopByHop(name) && !strings.HasPrefix(name, ownPrefix) && !slices.Contains(listed, name) {
			out[name] = v
		}
	}
	if hasToken(in["Te"], "trailers") { // gRPC servers insist on it
		out["Te"] = []string{"trailers"}
	}
	if f.upgrade != "" {
		out["Connection"], out["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	if in["User-Agent"] == nil {
		out["User-Agent"] = []string{""} // else net/http has one of its own
	}
	out[passportHeader], out[requestIDHeader] = []string{pass}, []string{f.id}
	out[recordHeader] = []string{strconv.FormatInt(f.place.entry.Record.Revision, 10)}
	return out
}

// listedByConnection returns the fields that end here because Connection lists them (RFC 9110 §7.6.1), by canonical name.
func (f *flight) listedByConnection() (names []string) {
	for _, v := range f.r.Header["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if !f.signal(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// signal says whether a field says which tenant is meant, or who asks.
func (f *flight) signal(name string) bool {
	if name == "Authorization" || name == "X-Api-Key" || name == "Cookie" || reserved(name) {
		return true
	}
	for _, id := range authn.IdentityHeaders(f.place.entry) {
		if strings.EqualFold(id, name) {
			return true
		}
	}
	return false
}

// unanswered classifies the error of a request that got no answer. What ended it on purpose comes first, then the client's
// own doing. Only what was certainly not sent is worth another try of ours; of the rest, the client may know.
func (f *flight) unanswered(err error) error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	if e := f.body.failed.Load(); e != nil {
		return e
	}
	err = fmt.Errorf("replica %s: %w", f.hop.to, err)
	_, unmade := errors.AsType[*unreachable](err)
	stream, _ := errors.AsType[http2.StreamError](err)
	if (unmade || stream.Code == http2.ErrCodeRefusedStream) && !f.hop.body.spent.Load() {
		return &notServed{err}
	}
	if f.r.Method == http.MethodGet || f.r.Method == http.MethodHead {
		return fault.Wrap(fault.Unavailable, err, "the replica that serves this tenant broke off: try again").After(moveRetry)
	}
	return fault.Wrap(fault.BadUpstream, err, "the replica that serves this tenant broke off: whether the request was carried out is not known")
}

// refusedThere is for an answer that is a refusal of the other replica's, who did nothing.
func (f *flight) refusedThere(k *link, why string) error {
	err := fmt.Errorf("replica %s refused a forwarded request (%s)", k.replica, why)
	if why == refusedPassport {
		if pass, ok := f.r.Context().Value(passportsKey{}).(*passports); ok {
			pass.forget(k)
		}
	}
	if f.hop.body.spent.Load() {
		return errors.Join(errBodySpent, err)
	}
	return &notServed{err}
}

// passOn answers with the other replica's answer.
func (f *flight) passOn(res *http.Response, t *transfer) error {
	if f.upgrade == "" && streaming(res.Header.Get("Content-Type")) {
		if err := f.hop.transit.Stream(); err != nil {
			return err
		}
	}
	for name := range res.Header {
		if hopByHop(name) && name != "Upgrade" && name != "Connection" || name == "X-Request-Id" || strings.HasPrefix(name, ownPrefix) {
			delete(res.Header, name)
		}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return f.passUpgrade(res)
	}
	h := f.w.Header()
	for name, v := range res.Header {
		if name != "Upgrade" && name != "Connection" {
			h[name] = v
		}
	}
	if res.StatusCode == http.StatusMisdirectedRequest {
		h["Connection"] = []string{"close"} // the client's idea of its connection is wrong (X01)
	}
	announced := len(res.Trailer)
	for name := range res.Trailer {
		h["Trailer"] = append(h["Trailer"], name)
	}
	f.WriteHeader(res.StatusCode)
	if err := f.passBody(t.answer(res), res.ContentLength); err != nil {
		return err
	}
	f.passTrailer(res, announced)
	return nil
}

// passBody copies the answer's body, part by part as it comes; a short one of known length goes out in one piece.
func (f *flight) passBody(src io.Reader, length int64) error {
	flush := length < 0 || length > bufferSize/2
	if length < 0 {
		_ = f.FlushError() // the next Write fails as well
	}
	buf := f.s.peers.buffers.Get()
	defer f.s.peers.buffers.Put(buf)
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			_, err := f.Write(buf[:n])
			if err == nil && flush {
				err = f.FlushError()
			}
			if err != nil {
				return fault.Wrap(fault.Canceled, err, "the client went away")
			}
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return f.brokenOff(rerr)
		}
	}
}

// passTrailer passes on what came after the body, which gRPC ends with.
func (f *flight) passTrailer(res *http.Response, announced int) {
	h := f.w.Header()
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	if len(res.Trailer) > 0 {
		_ = f.FlushError() // on HTTP/1.1 there are trailers only after chunks
	}
	for name, v := range res.Trailer {
		if !hopByHop(name) && !strings.HasPrefix(name, ownPrefix) {
			h[prefix+name] = v
		}
	}
}

// enterTransit takes a place among this replica's requests, once.
func (f *flight) enterTransit() (err error) {
	if f.hop.transit != nil {
		return nil
	}
	f.hop.transit, err = f.s.cfg.Guards.For(f.place.entry).Transit(f.who)
	if err == nil && f.upgrade != "" {
		err = f.hop.transit.Stream()
	}
	return err
}

// leaveTransit gives it back.
func (f *flight) leaveTransit() {
	if f.hop.transit != nil {
		f.hop.transit.Leave()
		f.hop.transit = nil
	}
}

// passMetrics takes the request out of the tenant's numbers: the owner has it in its own.
func (f *flight) passMetrics() {
	if f.metrics != nil {
		f.metrics.Pass()
	}
}

// keepMetrics takes it back, since nobody else has counted it.
func (f *flight) keepMetrics() {
	if f.metrics != nil {
		f.metrics.Begin()
	}
}
