package backend

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
)

const (
	simpleHead = 4 << 10 // most bytes of a simple request's head
	joined     = 4 << 10 // up to this long an answer is one buffer of the connection's own
)

// serveSimple answers GET and POST of / with as little work as it can. The first request that is anything else takes the connection
// to net/http, together with its bytes.
func (s *Server) serveSimple(c *conn) {
	l := simpleLoop{server: s, conn: c, buf: make([]byte, simpleHead), answer: s.answer(c.tenant)}
	for {
		r, err := l.next()
		if errors.Is(err, errOther) {
			c.again = l.buf[:l.have]
			s.handed.give(c)
			return
		}
		if err != nil || l.reply(r) != nil {
			_ = c.Close()
			return
		}
	}
}

// answer is the whole answer to /, in the pieces to write.
func (s *Server) answer(tenant int) net.Buffers {
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: " + strconv.Itoa(s.cfg.AnswerBytes) + "\r\n\r\n"
	head += Canary(s.cfg.Seed, tenant)
	rest := s.padding[:s.cfg.AnswerBytes-canaryBytes]
	if len(head)+len(rest) <= joined {
		return net.Buffers{[]byte(head + rest)}
	}
	return net.Buffers{[]byte(head), []byte(rest)}
}

// simpleLoop is one connection's.
type simpleLoop struct {
	server *Server
	conn   *conn
	buf    []byte
	have   int // bytes of buf that are filled
	answer net.Buffers
}

// next reads the head of a request. errOther says that it is not a simple one; nothing of it is lost then.
func (l *simpleLoop) next() (request, error) {
	for {
		r, err := parseSimple(l.buf[:l.have])
		if !errors.Is(err, errMore) {
			return r, err
		}
		if l.have == len(l.buf) {
			return r, errOther
		}
		n, err := l.conn.Read(l.buf[l.have:])
		l.have += n
		if err != nil {
			return r, err
		}
	}
}

// reply drops the request with its body and answers.
func (l *simpleLoop) reply(r request) error {
	body := min(l.have-r.head, r.body)
	l.have = copy(l.buf, l.buf[r.head+body:l.have])
	if rest := int64(r.body - body); rest > 0 {
		if _, err := io.CopyN(io.Discard, l.conn, rest); err != nil {
			return err
		}
	}
	l.server.stall.wait()
	if len(l.answer) == 1 {
		_, err := l.conn.Write(l.answer[0])
		return err
	}
	pieces := append(net.Buffers(nil), l.answer...)
	_, err := pieces.WriteTo(l.conn.Conn)
	return err
}

// request is a simple one's lengths.
type request struct{ head, body int }

// errSimple is a constant error.
type errSimple string

func (e errSimple) Error() string { return string(e) }

const (
	errMore  errSimple = "the head has not ended"
	errOther errSimple = "not a simple request"
)

// parseSimple tells the lengths of a request for / that needs nothing but an answer. It knows the few forms that a proxy sends and
// calls everything else errOther, so that no rule of RFC 9112 has to be kept here twice.
func parseSimple(b []byte) (request, error) {
	line := startOf(b)
	if line == 0 {
		return request{}, errOther
	}
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 || line > len(b) {
		return request{}, errMore
	}
	f := fields{}
	for at := line; at < end; {
		next := bytes.IndexByte(b[at:end+2], '\n') + at + 1
		if !f.add(b[at : next-1]) {
			return request{}, errOther
		}
		at = next
	}
	if f.hosts != 1 {
		return request{}, errOther
	}
	return request{head: end + 4, body: f.length}, nil
}

// startOf is the length of a request line that is simple, or still may be; 0 if it is not.
func startOf(b []byte) int {
	for _, line := range [...]string{"GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n"} {
		if n := min(len(b), len(line)); string(b[:n]) == line[:n] {
			return len(line)
		}
	}
	return 0
}

// fields are what matters of a head.
type fields struct {
	hosts  int
	length int
	sized  bool
}

// add takes a field line with its carriage return; false = the request is not a simple one.
func (f *fields) add(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 || line[len(line)-1] != '\r' {
		return false
	}
	name, value := line[:colon], bytes.Trim(line[colon+1:len(line)-1], " ")
	if !all(name, isName) || !all(value, isValue) {
		return false
	}
	switch {
	case is(name, "host"):
		f.hosts++
		return all(value, isHost)
	case is(name, "content-length"):
		return f.size(value)
	case is(name, "connection"):
		return is(value, "keep-alive")
	case is(name, "transfer-encoding"), is(name, "upgrade"), is(name, "expect"), is(name, "trailer"):
		return false
	}
	return true
}

func (f *fields) size(value []byte) bool {
	n, err := strconv.Atoi(string(value))
	if err != nil || f.sized || n < 0 || n > maxAnswer || value[0] == '+' || value[0] == '-' {
		return false
	}
	f.length, f.sized = n, true
	return true
}

func is(b []byte, lower string) bool {
	return len(b) == len(lower) && bytes.EqualFold(b, []byte(lower))
}

func all(b []byte, ok func(byte) bool) bool {
	for _, c := range b {
		if !ok(c) {
			return false
		}
	}
	return true
}

func isName(c byte) bool { return isLetter(c) || c == '-' || c == '_' }

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isValue(c byte) bool { return c >= ' ' && c != 0x7f }

func isHost(c byte) bool { return isLetter(c) || c == '.' || c == '-' || c == ':' }
