package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

// newGRPCCaller returns a caller of a unary RPC that takes and returns a google.protobuf.BytesValue. It is written on the HTTP/2 caller
// (gRPC over HTTP/2: a length before each message, the status in the trailers), so that its connections are made, measured and
// replaced as all others are.
func newGRPCCaller(c *Client) *http2Caller {
	return streamCaller(c, grpcMessage(c.payload), c.judgeGRPC)
}

// grpcMessage returns a BytesValue with its prefix: not compressed, and its length.
func grpcMessage(value []byte) []byte {
	var message []byte
	if len(value) > 0 { // the default value is not sent
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendBytes(message, value)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// judgeGRPC judges the answer to a unary call.
func (c *Client) judgeGRPC(t *target, st *stream) error {
	body, status := st.body.Bytes(), st.grpc
	if err := c.foreign(t, body); err != nil {
		return err
	}
	if st.status != http.StatusOK {
		return badStatus(t, st.status, body)
	}
	if status == "" {
		return wrong(t, "the answer has no grpc-status: it was cut off, or what answers there does not speak gRPC")
	}
	if status != "0" {
		name := codeName(status)
		return &failure{class: "grpc " + name, tenant: t, what: fmt.Sprintf("it answered with gRPC status %s: %q", name, t.excerpt([]byte(st.message)))}
	}
	value, err := grpcValue(body)
	if err != nil {
		return wrong(t, "the answer is no BytesValue: %v", err)
	}
	return c.judge(t, value)
}

// codeName returns the name of a status, such as "Unavailable".
func codeName(status string) string {
	n, err := strconv.ParseUint(status, 10, 8)
	if err != nil || n > uint64(codes.Unauthenticated) {
		return "unknown"
	}
	return codes.Code(n).String()
}

// grpcValue returns the value of the one BytesValue that an answer consists of.
func grpcValue(body []byte) ([]byte, error) {
	if len(body) < 5 || body[0] != 0 {
		return nil, errors.New("it is no message without compression")
	}
	message := body[5:]
	if uint64(binary.BigEndian.Uint32(body[1:5])) != uint64(len(message)) {
		return nil, errors.New("it is not one message exactly")
	}
	if len(message) == 0 {
		return nil, nil
	}
	number, kind, n := protowire.ConsumeTag(message)
	if n < 0 || number != 1 || kind != protowire.BytesType {
		return nil, errors.New("its first field is not the value")
	}
	value, m := protowire.ConsumeBytes(message[n:])
	if m < 0 || n+m != len(message) {
		return nil, errors.New("its value is not all there is")
	}
	return value, nil
}
