package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
)

// callPath is where calls are answered, on the peer listener alone and without a passport, which every request of a client
// has there.
const callPath = "/.polygate/peer/v1/"

// callTime bounds a call whose context does not.
const callTime = 30 * time.Second

// callFailure is the answer to a call that failed.
type callFailure struct {
	V          int    `json:"v"`
	Kind       string `json:"kind"`
	Detail     string `json:"detail,omitempty"`
	RetryAfter int64  `json:"retry_after_ms,omitempty"`
}

// failureHeader tells the answer of a handler from that of something else at the address.
const failureHeader = "Polygate-Failure"

// serveCall answers a call of the replica from.
func (s *Server) serveCall(w http.ResponseWriter, r *http.Request, from string) {
	s.handlers.Add(1)
	defer s.handlers.Done()
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	reply, err := s.answerCall(ctx, r, from)
	if err == nil && len(reply) > peer.MaxReply {
		err = fmt.Errorf("the reply has %d bytes, of %d", len(reply), peer.MaxReply)
	}
	if err != nil {
		s.log.Debug("a call of another replica failed", slog.String("from", from), slog.String("path", r.URL.Path), slog.Any("error", err))
		failCall(w, fault.From(err))
		return
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = w.Write(reply) // who asked went away
}

// answerCall judges a call and has it answered.
func (s *Server) answerCall(ctx context.Context, r *http.Request, from string) (reply []byte, err error) {
	name, ok := strings.CutPrefix(r.URL.Path, callPath)
	handler := s.peers.Handlers[name]
	switch {
	case r.Host != peer.ServerName(s.peers.self):
		return nil, fault.New(fault.Misdirected, "the call is for %s", r.Host)
	case r.Method != http.MethodPost:
		return nil, fault.New(fault.MethodNotAllowed, "calls are POST")
	case !ok || handler == nil:
		return nil, fault.New(fault.NotFound, "this replica knows no call %q", name)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, peer.MaxRequest+1))
	if err != nil {
		return nil, fault.Wrap(fault.Canceled, err, "the call broke off")
	}
	if len(body) > peer.MaxRequest {
		return nil, fault.New(fault.TooLarge, "a call has at most %d bytes", peer.MaxRequest)
	}
	defer func() { // a defect in one call is no reason to end the process for all tenants
		if p := recover(); p != nil {
			s.log.Error("panic in a call", slog.String("call", name), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = fault.New(fault.Internal, "panic")
		}
	}()
	return handler(ctx, from, body)
}

// failCall answers with an error. Details of what is internal stay in the log.
func failCall(w http.ResponseWriter, e *fault.Error) {
	f := callFailure{V: 1, Kind: e.Kind.String(), Detail: e.Detail, RetryAfter: e.RetryAfter.Milliseconds()}
	body, err := json.Marshal(f)
	if err != nil { // strings and numbers: cannot fail
		body = []byte("{}")
	}
	w.Header()["Content-Type"], w.Header()[failureHeader] = []string{"application/json"}, []string{f.Kind}
	w.WriteHeader(e.Kind.Status())
	_, _ = w.Write(body) // who asked went away
}

// Caller returns what asks other replicas; nil for a lone replica.
func (s *Server) Caller() peer.Caller {
	if s.peers == nil {
		return nil
	}
	return s.peers
}

// Call implements peer.Caller. This replica answers itself.
func (p *peers) Call(ctx context.Context, replica, name string, body []byte) ([]byte, error) {
	if replica == p.self {
		handler := p.Handlers[name]
		if handler == nil {
			return nil, fault.New(fault.NotFound, "this replica knows no call %q", name)
		}
		return handler(ctx, p.self, body)
	}
	address, ok := p.Address(replica)
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no live replica %s", replica)
	}
	k, err := p.links.to(replica, address)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "replica %s cannot be reached", replica)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	reply, err := k.call(ctx, name, body)
	if _, known := errors.AsType[*fault.Error](err); err != nil && !known {
		err = fault.Wrap(fault.Unavailable, err, "replica %s cannot be reached, or broke off", replica)
	}
	return reply, err
}

// call asks one replica.
func (k *link) call(ctx context.Context, name string, body []byte) ([]byte, error) {
	u := &url.URL{Scheme: "https", Host: k.address, Path: callPath + name}
	req := (&http.Request{Method: http.MethodPost, URL: u, Host: peer.ServerName(k.replica), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}).WithContext(ctx)
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	res, err := k.streams.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(res.Body, peer.MaxReply+1))
	switch {
	case err != nil:
		return nil, err
	case len(reply) > peer.MaxReply:
		return nil, fmt.Errorf("the reply has more than %d bytes", peer.MaxReply)
	case res.Header.Get(failureHeader) != "":
		return nil, readFailure(reply)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("replica %s answered with status %d", k.replica, res.StatusCode)
	}
	return reply, nil
}

// readFailure reads what failCall wrote. A kind of a version after this one is internal here.
func readFailure(body []byte) error {
	var f callFailure
	if err := json.Unmarshal(body, &f); err != nil {
		return fmt.Errorf("the answer of a call that failed: %w", err)
	}
	e := &fault.Error{Kind: fault.Internal, Detail: f.Detail, RetryAfter: time.Duration(f.RetryAfter) * time.Millisecond}
	for k := range fault.NotAcceptable + 1 {
		if k.String() == f.Kind {
			e.Kind = k
		}
	}
	return e
}
