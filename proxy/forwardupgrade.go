package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// passUpgrade joins the client's connection with the other replica's. If that is gone the client is told to come again.
func (f *flight) passUpgrade(res *http.Response) error {
	there, ok := res.Body.(io.ReadWriteCloser)
	if !ok || f.upgrade == "" || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
		return fault.New(fault.BadUpstream, "a replica switched to a protocol that nobody asked for")
	}
	c, rw, err := f.Hijack()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "")
	}
	defer c.Close()
	client, ok := c.(*upgraded)
	if !ok || rw.Reader.Buffered() > 0 {
		return fault.New(fault.Invalid, "the client sent frames before the upgrade was answered")
	}
	res.Header["X-Request-Id"] = f.idValue[:]
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush fails as well
	_ = res.Header.Write(rw)
	_, _ = rw.WriteString("\r\n")
	if err := rw.Flush(); err != nil {
		return fault.Wrap(fault.Canceled, err, "the client went away")
	}
	client.begin()
	return f.join(client, there)
}

// endStranded tells WebSockets to come again whose replica has gone. HTTP/1.1 has no ping: one that is frozen keeps its
// connections, and would keep its clients for as long as they like.
func (s *Server) endStranded() {
	if s.peers == nil {
		return
	}
	stranded := func(f *flight) bool {
		k := f.hop.upgrade.Load()
		return k != nil && f.departed.Load() == 0 && !s.peers.live(k)
	}
	s.live.each(stranded, func(f *flight) {
		f.depart(&exchange.Reconnect{After: moveRetry, Err: fault.New(fault.Unavailable, "the replica that served this tenant is gone: try again")})
	})
}

// live says whether a link leads to a replica that there is.
func (p *peers) live(k *link) bool {
	at, ok := p.Address(k.replica)
	return ok && at == k.address
}

// join copies both ways until the other replica's side has ended.
func (f *flight) join(client *upgraded, there io.ReadWriteCloser) error {
	stop := context.AfterFunc(f.ctx, func() { // one who is to come again is told to by client itself
		if departing(f.ctx) == nil {
			_ = there.Close()
			return
		}
		time.AfterFunc(2*farewellTime, func() { _ = there.Close() }) // a replica that takes nothing keeps nobody waiting
	})
	defer stop()
	done := make(chan struct{})
	go func() { // ends with either connection, both of which are closed below
		defer close(done)
		if err := f.copyAll(there, client); err != nil || f.ctx.Err() != nil { // it was cut, or has said goodbye
			_ = there.Close()
			return
		}
		closeWrite(there)
	}()
	err := f.copyAll(client, there)
	if err != nil && f.ctx.Err() == nil {
		client.depart()
	}
	_ = client.SetReadDeadline(time.Now().Add(messageWait)) // fails for one that is closed
	if err == nil || f.ctx.Err() != nil {
		_ = client.Close()
	}
	_ = there.Close()
	<-done
	if f.ctx.Err() != nil || err != nil {
		return f.brokenOff(err)
	}
	return nil
}

// copyAll copies until the end of src; the error is one of reading.
func (f *flight) copyAll(dst io.Writer, src io.Reader) error {
	buf := f.s.peers.buffers.Get()
	defer f.s.peers.buffers.Put(buf)
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return nil
			}
		}
		if errors.Is(rerr, io.EOF) {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

func closeWrite(c io.Closer) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // the other way may go on
		return
	}
	_ = c.Close()
}
