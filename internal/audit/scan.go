package audit

import (
	"bufio"
	"errors"
	"io"
)

// scanner reads the lines of a log one at a time, in bounded memory.
type scanner struct {
	r *bufio.Reader

	text   []byte // the current line without its newline; valid until next is called again; nil if it is too long
	number int64  // of the current line, from 1
	start  int64  // offset of the current line
	end    int64  // offset behind it
	whole  bool   // the current line ends with a newline; only the last can lack it
}

// newScanner reads from r, whose first byte is at offset.
func newScanner(r io.Reader, offset int64) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, MaxLine), end: offset}
}

// next moves to the next line; at the end of the log the error is io.EOF.
func (s *scanner) next() error {
	s.start = s.end
	text, err := s.r.ReadSlice('\n')
	s.end += int64(len(text))
	s.text = text
	for errors.Is(err, bufio.ErrBufferFull) {
		s.text = nil
		var more []byte
		more, err = s.r.ReadSlice('\n')
		s.end += int64(len(more))
	}
	s.whole = err == nil
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if s.end == s.start {
		return io.EOF
	}
	if s.whole && s.text != nil {
		s.text = s.text[:len(s.text)-1]
	}
	s.number++
	return nil
}

// parse returns the current line as a record.
func (s *scanner) parse() (Line, error) {
	if s.text == nil {
		return Line{}, errTooLong
	}
	return ParseLine(s.text)
}
