package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// h2 is an HTTP/2 connection on which tests send the header fields that they like.
type h2 struct {
	t    testing.TB
	fr   *http2.Framer
	next uint32
}

func newH2(t testing.TB, f *front, sni string) *h2 {
	t.Helper()
	c, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.issuer.pool(), ServerName: sni, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	h := &h2{t: t, fr: http2.NewFramer(c, c), next: 1}
	h.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := h.fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return h
}

// request sends a request without a body and returns the status; 0 if the stream was reset.
func (h *h2) request(fields []string) int {
	h.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	id := h.next
	h.next += 2
	if err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		h.t.Fatal(err)
	}
	for {
		fr, err := h.fr.ReadFrame()
		if err != nil {
			h.t.Fatal(err)
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.StreamID == id {
				n, _ := strconv.Atoi(fr.PseudoValue("status"))
				return n
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID == id {
				return 0
			}
		}
	}
}
