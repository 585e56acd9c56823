package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// FuzzEvents reads event streams, whole and a byte at a time: both are the same.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "data:a\r\ndata: b\r\n\r\n", ": comment\nid: 1\ndata\n\n", "data: cut off", "\n\n\n", "event: x\n\ndata: y\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all := readEvents(t, bytes.NewReader(b))
		slowly := readEvents(t, oneByte{bytes.NewReader(b)})
		if strings.Join(all, "|") != strings.Join(slowly, "|") || len(all) != len(slowly) {
			t.Errorf("got %q at once and %q by bytes", all, slowly)
		}
	})
}

func readEvents(t *testing.T, r io.Reader) (all []string) {
	t.Helper()
	var e events
	e.reset(r)
	for {
		data, err := e.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return all
		}
		all = append(all, string(data))
	}
}

// oneByte reads a byte at a time.
type oneByte struct{ io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.Reader.Read(b[:min(1, len(b))]) }

func TestEvents(t *testing.T) {
	for in, want := range map[string]string{
		"data: a\n\ndata: b\n\n": "a|b", "data: a\ndata: b\n\n": "a\nb", "data:a\r\n\r\n": "a", "data\n\n": "", "id: 1\n\ndata: x\n\n": "x",
		": hi\n\ndata:  two spaces\n\n": " two spaces", "data: cut": "", "data: cut\n": "", "datax: no\n\n": "",
	} {
		if got := strings.Join(readEvents(t, strings.NewReader(in)), "|"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// FuzzAnswer reads answers as the streaming callers do. What net/http reads too has the same body.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h fasthttp.ResponseHeader
		body, err := open(&h, bufio.NewReaderSize(bytes.NewReader(b), headerBytes))
		if err != nil {
			return
		}
		got, err := io.ReadAll(body)
		if err != nil {
			return
		}
		want, ok := standard(b)
		if ok && !bytes.Equal(got, want) {
			t.Errorf("got %q, net/http has %q", got, want)
		}
	})
}

// standard reads an answer with net/http; false = it is not one for it, or not one only.
func standard(b []byte) ([]byte, bool) {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil || resp.StatusCode < 200 {
		return nil, false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return body, err == nil
}

// FuzzGRPCValue parses answers of an RPC. What is made is read back.
func FuzzGRPCValue(f *testing.F) {
	f.Add(grpcMessage(nil))
	f.Add(grpcMessage([]byte("canary=x;")))
	f.Add([]byte{0, 0, 0, 0, 2, 10, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		if value, err := grpcValue(b); err == nil && len(value) > len(b) {
			t.Errorf("a value of %d bytes in %d", len(value), len(b))
		}
		if value, err := grpcValue(grpcMessage(b)); err != nil || !bytes.Equal(value, b) {
			t.Errorf("got %q, %v, want %q", value, err, b)
		}
	})
}
