package proxy

import (
	"encoding/binary"
	"strings"
)

// framing follows the bytes of a stream of messages, to know where the stream may end without a part of one: a client would
// take that for a message, or for garbage, and what is put in behind it would be read as a piece of it.
type framing interface {
	// pass is told of the next bytes, and returns how many of them there are up to the last end of a message in them; 0 = no
	// message ends there.
	pass(p []byte) (last int)
	// whole says whether all that has passed is whole messages.
	whole() bool
}

// framingOf returns how messages are told apart in a body; nil if that is not known, as it is not below a content coding.
func framingOf(contentType, contentEncoding string) framing {
	if contentEncoding != "" && !strings.EqualFold(contentEncoding, "identity") {
		return nil
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch {
	case media == "text/event-stream":
		return &eventFraming{}
	case media == "application/grpc" || strings.HasPrefix(media, "application/grpc+"):
		return &grpcFraming{}
	}
	return nil
}

// eventFraming follows an event stream: lines end with LF, CR or both, an event with an empty line. Comments, which are lines
// that begin with ':', belong to no event.
type eventFraming struct {
	inLine  bool
	comment bool // the line that was begun is one
	pending bool // an event was begun
	cr      bool // a LF would belong to the end of line that was seen
}

// whole implements framing.
func (e *eventFraming) whole() bool { return !e.inLine && !e.pending }

// pass implements framing.
func (e *eventFraming) pass(p []byte) (last int) {
	for i, c := range p {
		e.next(c)
		if e.whole() {
			last = i + 1
		}
	}
	return last
}

func (e *eventFraming) next(c byte) {
	afterCR := e.cr
	e.cr = c == '\r'
	switch {
	case c == '\n' && afterCR:
	case c == '\n' || c == '\r':
		if !e.inLine {
			e.pending = false
		}
		e.inLine, e.comment = false, false
	case !e.inLine:
		e.inLine, e.comment = true, c == ':'
		e.pending = e.pending || !e.comment
	}
}

// grpcFraming follows gRPC messages: a byte of flags, the length in four, and so many bytes.
type grpcFraming struct {
	head [5]byte
	n    int    // bytes of head that are there
	left uint32 // of the message
}

// whole implements framing.
func (g *grpcFraming) whole() bool { return g.n == 0 && g.left == 0 }

// pass implements framing.
func (g *grpcFraming) pass(p []byte) (last int) {
	for i := 0; i < len(p); {
		if g.left > 0 {
			k := min(int(g.left), len(p)-i)
			g.left -= uint32(k)
			i += k
		} else {
			k := copy(g.head[g.n:], p[i:])
			g.n += k
			i += k
			if g.n == len(g.head) {
				g.left, g.n = binary.BigEndian.Uint32(g.head[1:]), 0
			}
		}
		if g.whole() {
			last = i
		}
	}
	return last
}

// opClose is the opcode of a close frame (RFC 6455 §5.5.1): nothing may follow one.
const opClose = 8

// socketFraming follows the frames of one direction of a WebSocket (RFC 6455 §5.2). Between any two of them another may be
// put, if it is a control frame, even between those of one message (§5.4). Extensions change payloads, not frames.
type socketFraming struct {
	head   [14]byte
	n      int    // bytes of head that are there
	left   uint64 // of the payload
	closed bool   // a close frame has passed
	broken bool   // a length that is none: nobody knows any more where a frame ends
}

// whole implements framing.
func (s *socketFraming) whole() bool { return s.n == 0 && s.left == 0 && !s.broken }

// pass implements framing.
func (s *socketFraming) pass(p []byte) (last int) {
	for i := 0; i < len(p) && !s.broken; {
		if s.left > 0 {
			k := min(s.left, uint64(len(p)-i))
			s.left -= k
			i += int(k)
		} else {
			s.head[s.n] = p[i]
			s.n++
			i++
			if s.n < s.headerLength() {
				continue
			}
			s.begin()
		}
		if s.left == 0 && s.n > 0 {
			s.closed = s.closed || s.head[0]&0xf == opClose
			s.n = 0
		}
		if s.whole() {
			last = i
		}
	}
	return last
}

// headerLength returns how long the header is that was begun, as far as that can be told.
func (s *socketFraming) headerLength() int {
	if s.n < 2 {
		return 2
	}
	length := 2
	switch s.head[1] & 0x7f {
	case 126:
		length += 2
	case 127:
		length += 8
	}
	if s.head[1]&0x80 != 0 {
		length += 4 // the masking key
	}
	return length
}

// begin begins a payload: the header is whole, and stays in n until the payload is.
func (s *socketFraming) begin() {
	switch short := s.head[1] & 0x7f; short {
	case 126:
		s.left = uint64(binary.BigEndian.Uint16(s.head[2:]))
	case 127:
		s.left = binary.BigEndian.Uint64(s.head[2:])
		s.broken = s.left>>63 != 0
	default:
		s.left = uint64(short)
	}
}

// closeFrame returns a close frame with a status (RFC 6455 §5.5.1), of which reason is for people. What a client says to a
// server has to be masked: by key, if there is one.
func closeFrame(status uint16, reason string, key []byte) []byte {
	payload := append(binary.BigEndian.AppendUint16(nil, status), reason...)
	head := []byte{0x80 | opClose, byte(len(payload))}
	if key != nil {
		head[1] |= 0x80
		head = append(head, key...)
		for i := range payload {
			payload[i] ^= key[i%4]
		}
	}
	return append(head, payload...)
}
