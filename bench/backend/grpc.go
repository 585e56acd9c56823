package backend

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// EchoMethod is the gRPC method: unary, google.protobuf.BytesValue in and out. The answer is the canary and padding, whatever is asked.
const EchoMethod = "/polybench.Echo/Call"

// handleGRPC is that method, written out (gRPC over HTTP/2: one message without compression, status in trailers), because a whole
// server of gRPC would cost more than what is measured.
func (s *Server) handleGRPC(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		http.Error(w, "this is a gRPC method: call it over HTTP/2 with content-type application/grpc", http.StatusUnsupportedMediaType)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	if err := readMessage(r.Body); err != nil {
		w.Header().Set("Grpc-Status", "13")
		w.Header().Set("Grpc-Message", "not one BytesValue without compression")
		return
	}
	s.stall.wait()
	b, err := message(placeOf(r.Context()).canary + s.padding[:s.cfg.AnswerBytes-canaryBytes])
	if err != nil {
		w.Header().Set("Grpc-Status", "13")
		return
	}
	_, _ = w.Write(b)
	w.Header().Set("Grpc-Status", "0")
}

// readMessage reads the one message of a call and checks that it is a BytesValue.
func readMessage(r io.Reader) error {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || n > maxAnswer+16 {
		return io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return proto.Unmarshal(b, &wrapperspb.BytesValue{})
}

// message is a BytesValue with its prefix.
func message(body string) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5, len(body)+16), wrapperspb.Bytes([]byte(body)))
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b[1:5], uint32(len(b)-5))
	return b, nil
}
