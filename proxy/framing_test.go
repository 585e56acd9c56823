package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// ends returns after which bytes of text f finds whole messages, told of one byte at a time.
func ends(f framing, text []byte) (at []int) {
	for i := range text {
		f.pass(text[i : i+1])
		if f.whole() {
			at = append(at, i+1)
		}
	}
	return at
}

func TestEventFraming(t *testing.T) {
	for text, want := range map[string][]int{
		"data: a\n\ndata: b\n\n":  {9, 18},
		"data: a\r\n\r\n":         {10, 11}, // a LF after that CR belongs to it
		"data: a\r\r":             {9},
		"data: a\n\r\n":           {9, 10},
		": ping\n: pong\n":        {7, 14}, // comments are in no event
		"data: a\n: ping\n\n":     {16},    // but in the middle of one
		"id: 1\nretry: 5\n\nd\n":  {16},
		"\n\n":                    {1, 2},
		"data: a\rdata: b\r\n":    nil,
		"event: x\ndata: y\r\n\n": {19},
	} {
		if got := ends(&eventFraming{}, []byte(text)); !slices.Equal(got, want) {
			t.Errorf("%q: whole after %v, want %v", text, got, want)
		}
	}
}

func TestGRPCFraming(t *testing.T) {
	text := []byte("\x00\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02xy\x00\x00")
	if got, want := ends(&grpcFraming{}, text), []int{8, 13, 20}; !slices.Equal(got, want) {
		t.Errorf("whole after %v, want %v", got, want)
	}
}

func TestFramingOf(t *testing.T) {
	for _, tc := range []struct{ contentType, encoding, want string }{
		{"text/event-stream", "", "*proxy.eventFraming"},
		{"Text/Event-Stream ; charset=utf-8", "identity", "*proxy.eventFraming"},
		{"text/event-stream", "gzip", "<nil>"},
		{"text/event-streams", "", "<nil>"},
		{"application/grpc", "", "*proxy.grpcFraming"},
		{"application/grpc+proto", "", "*proxy.grpcFraming"},
		{"application/grpc-web+proto", "", "<nil>"}, // its trailers are in the body
		{"text/plain", "", "<nil>"},
	} {
		if got := fmt.Sprintf("%T", framingOf(tc.contentType, tc.encoding)); got != tc.want {
			t.Errorf("%s in %q: %s, want %s", tc.contentType, tc.encoding, got, tc.want)
		}
	}
}

// frame returns a frame of a WebSocket with so many bytes in its payload.
func frame(opcode byte, n int, masked bool) []byte {
	b := []byte{0x80 | opcode, 0}
	switch {
	case n > 0xffff:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	case n > 125:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = byte(n)
	}
	if masked {
		b[1] |= 0x80
		b = append(b, "mask"...)
	}
	return append(b, bytes.Repeat([]byte{0x88}, n)...) // as if there were close frames in it
}

func TestSocketFraming(t *testing.T) {
	var text []byte
	var want []int
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		for _, masked := range []bool{false, true} {
			text = append(text, frame(2, n, masked)...)
			want = append(want, len(text))
		}
	}
	f := &socketFraming{}
	if got := ends(f, text); !slices.Equal(got, want) || f.closed {
		t.Errorf("whole after %v, want %v; closed: %v", got, want, f.closed)
	}
	for i, b := range closeFrame(1012, "come again", nil) {
		if f.closed {
			t.Fatalf("closed before byte %d of the close frame", i)
		}
		f.pass([]byte{b})
	}
	if !f.closed || !f.whole() {
		t.Errorf("after a close frame: closed %v, whole %v", f.closed, f.whole())
	}
	f = &socketFraming{}
	f.pass([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	if f.whole() || f.pass(make([]byte, 100)) != 0 {
		t.Error("a length that is none is believed")
	}
}

// referenceFrames reads frames of a whole text, the plain way: where each ends, and where the first that is a close frame.
func referenceFrames(b []byte) (at []int, closed bool) {
	for i := 0; len(b)-i >= 2; {
		n, head := uint64(b[i+1]&0x7f), 2
		switch {
		case n == 126 && len(b)-i >= 4:
			n, head = uint64(binary.BigEndian.Uint16(b[i+2:])), 4
		case n == 127 && len(b)-i >= 10:
			n, head = binary.BigEndian.Uint64(b[i+2:]), 10
		case n > 125:
			return at, closed
		}
		if b[i+1]&0x80 != 0 {
			head += 4
		}
		if uint64(len(b)-i) < uint64(head) || n > uint64(len(b)-i-head) {
			return at, closed
		}
		closed = closed || b[i]&0xf == opClose
		i += head + int(n)
		at = append(at, i)
	}
	return at, closed
}

// FuzzSocketFraming: however the bytes are cut into pieces, frames end where they end.
func FuzzSocketFraming(f *testing.F) {
	f.Add(slices.Concat(frame(1, 3, true), frame(2, 200, false), closeFrame(1001, "x", []byte("abcd"))), 3)
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 1)
	f.Add([]byte("\x82\x7e\x00"), 2)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		size = max(size%64, 1)
		want, wantClosed := referenceFrames(b)
		s := &socketFraming{}
		var got []int
		for i := 0; i < len(b); i += size {
			piece := b[i:min(i+size, len(b))]
			if last := s.pass(piece); last < 0 || last > len(piece) {
				t.Fatalf("pass(%d bytes) = %d", len(piece), last)
			} else if last > 0 {
				got = append(got, i+last)
			}
		}
		for _, at := range got {
			if !slices.Contains(want, at) {
				t.Fatalf("a frame ends at %d, want one of %v", at, want)
			}
		}
		if len(want) > 0 && (len(got) == 0 || got[len(got)-1] != want[len(want)-1]) {
			t.Fatalf("ends %v, want the last of %v", got, want)
		}
		if whole := len(b) == 0 || len(want) > 0 && want[len(want)-1] == len(b); s.whole() != whole || s.closed != wantClosed {
			t.Fatalf("whole %v, closed %v; want %v, %v", s.whole(), s.closed, whole, wantClosed)
		}
	})
}

// FuzzEventFraming: an event never begins before the end that was found, nor goes on behind it.
func FuzzEventFraming(f *testing.F) {
	for _, s := range []string{"data: a\r\n\r\nid: 1\n\n", ": x\r\rdata\n", "\n\r\n\r"} {
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		size = max(size%64, 1)
		e := &eventFraming{}
		at := 0
		for i := 0; i < len(b); i += size {
			if last := e.pass(b[i:min(i+size, len(b))]); last > 0 {
				at = i + last
			}
		}
		if e.whole() && len(b) > 0 && at != len(b) {
			t.Fatalf("whole at the end, but the last was found at %d of %d", at, len(b))
		}
		if at == 0 {
			return
		}
		text := strings.ReplaceAll(strings.ReplaceAll(string(b[:at]), "\r\n", "\n"), "\r", "\n")
		lines := strings.Split(text, "\n")
		if lines[len(lines)-1] != "" {
			t.Fatalf("%q ends within a line", text)
		}
		for i := len(lines) - 2; i >= 0 && lines[i] != ""; i-- {
			if !strings.HasPrefix(lines[i], ":") {
				t.Fatalf("%q ends within an event", text)
			}
		}
	})
}
