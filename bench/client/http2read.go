package client

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// read takes frames until the connection ends.
func (s *shared) read() {
	for {
		f, err := s.framer.ReadFrame()
		var stream http2.StreamError
		switch {
		case errors.As(err, &stream): // of one stream: the connection goes on (RFC 9113 §5.4.2)
			s.end(stream.StreamID, err)
			continue
		case errors.Is(err, io.EOF):
			err = errors.Join(io.ErrUnexpectedEOF, err) // streams that wait are cut off
		}
		if err == nil {
			err = s.take(f)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// take takes a frame.
func (s *shared) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return s.takeHeader(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), f.StreamEnded())
	case *http2.ContinuationFrame:
		return s.takeRest(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return s.takeData(f)
	case *http2.RSTStreamFrame:
		s.end(f.StreamID, http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode})
	case *http2.SettingsFrame:
		return s.takeSettings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			data := f.Data
			return s.write(func() error { return s.framer.WritePing(true, data) })
		}
	case *http2.GoAwayFrame:
		s.goAway(f.LastStreamID, f.ErrCode)
	case *http2.WindowUpdateFrame:
		return s.open(f.StreamID, int64(f.Increment))
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // we told that we want none
	}
	return nil
}

// takeHeader begins an answer's header, or its trailers. What belongs to a stream that was given up is unpacked all the same: the state of
// the compression is the connection's.
func (s *shared) takeHeader(id uint32, part []byte, headersEnd, streamEnds bool) error {
	s.mu.Lock()
	s.current, s.headerID, s.ends, s.block = s.streams[id], id, streamEnds, 0
	s.mu.Unlock()
	return s.takeRest(part, headersEnd)
}

// takeRest goes on with a header.
func (s *shared) takeRest(part []byte, headersEnd bool) error {
	if s.block += len(part); s.block > headerBlock {
		return fmt.Errorf("an answer's header has more than %d bytes", headerBlock)
	}
	if _, err := s.unpack(part); err != nil {
		return errors.Join(http2.ConnectionError(http2.ErrCodeCompression), err)
	}
	if !headersEnd {
		return nil
	}
	if err := s.unpacker.Close(); err != nil {
		return errors.Join(http2.ConnectionError(http2.ErrCodeCompression), err)
	}
	if s.ends {
		s.end(s.headerID, nil)
	}
	return nil
}

// unpack reads packed fields into the current stream.
func (s *shared) unpack(part []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.streams[s.headerID] != s.current {
		s.current = nil // given up meanwhile
	}
	return s.unpacker.Write(part)
}

// field takes a field of a header. s.mu is held.
func (s *shared) field(f hpack.HeaderField) {
	st := s.current
	if st == nil {
		return
	}
	switch f.Name {
	case ":status":
		st.status, _ = strconv.Atoi(f.Value) // 0 is no status, and judged so
	case "grpc-status":
		st.grpc = f.Value
	case "grpc-message":
		st.message = f.Value
	}
}

// takeData takes a part of an answer.
func (s *shared) takeData(f *http2.DataFrame) error {
	if err := s.store(f.StreamID, f.Data()); err != nil {
		return err
	}
	s.received += int64(f.Length)
	if s.received >= connWindow/2 {
		n := uint32(s.received)
		s.received = 0
		if err := s.write(func() error { return s.framer.WriteWindowUpdate(0, n) }); err != nil {
			return err
		}
	}
	if f.StreamEnded() {
		s.end(f.StreamID, nil)
	}
	return nil
}

// store keeps a part of an answer.
func (s *shared) store(id uint32, part []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[id]
	if st == nil {
		return nil
	}
	if st.body.Len()+len(part) > streamWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	st.body.Write(part)
	return nil
}

// end ends a stream.
func (s *shared) end(id uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil {
		s.finish(st, err)
		s.wake() // it may be waiting for a window
	}
}

// takeSettings applies what the server says of itself (RFC 9113 §6.5).
func (s *shared) takeSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	table := uint32(4096)
	if err := f.ForeachSetting(func(v http2.Setting) error {
		if v.ID == http2.SettingHeaderTableSize {
			table = min(table, v.Val)
		}
		return s.set(v)
	}); err != nil {
		return err
	}
	return s.write(func() error {
		s.packer.SetMaxDynamicTableSize(table)
		return s.framer.WriteSettingsAck()
	})
}

// set applies one setting.
func (s *shared) set(v http2.Setting) error {
	if err := v.Valid(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch v.ID {
	case http2.SettingMaxConcurrentStreams:
		s.most = int(v.Val)
	case http2.SettingMaxFrameSize:
		s.frame = int(v.Val)
	case http2.SettingInitialWindowSize:
		for _, st := range s.streams {
			st.window += int64(v.Val) - s.initial
		}
		s.initial = int64(v.Val)
		s.wake()
	}
	return nil
}

// open opens the window of a stream, or with 0 the connection's.
func (s *shared) open(id uint32, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == 0 {
		s.window += n
	} else if st := s.streams[id]; st != nil {
		st.window += n
	}
	if s.window > 1<<31-1 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	s.wake()
	return nil
}

// goAway ends the streams that the server will not look at, and lets the others be answered (RFC 9113 §6.8).
func (s *shared) goAway(last uint32, code http2.ErrCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	for id, st := range s.streams {
		if id > last {
			s.finish(st, fmt.Errorf("%w: it went away (%s)", errUntouched, code))
		}
	}
	s.wake()
}
