package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

// TestClassify: an error is a sure refusal only where etcd cannot have done what was asked. A broken stream, or an error
// that etcd has no name for, leaves that open.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err      error
		kind     fault.Kind
		rejected bool
	}{
		{status.Error(codes.Internal, "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"), fault.Unavailable, false},
		{status.Error(codes.Unknown, "unexpected HTTP status code received from server: 502"), fault.Unavailable, false},
		{status.Error(codes.Aborted, "x"), fault.Unavailable, false},
		{errors.New("a plain error"), fault.Unavailable, false},
		{status.Error(codes.Unavailable, "connection refused"), fault.Unavailable, false},
		{rpctypes.ErrTimeout, fault.Unavailable, false},
		{rpctypes.ErrNoLeader, fault.Unavailable, false},
		{context.DeadlineExceeded, fault.Unavailable, false},
		{context.Canceled, fault.Unavailable, false},
		{status.Error(codes.InvalidArgument, "x"), fault.Internal, false},
		{rpctypes.ErrDuplicateKey, fault.Internal, false},
		{rpctypes.ErrTooManyOps, fault.TooLarge, false},
		{rpctypes.ErrRequestTooLarge, fault.TooLarge, false},
		{rpctypes.ErrNoSpace, fault.Unavailable, true},
		{rpctypes.ErrPermissionDenied, fault.Unavailable, true},
	} {
		err := classify(c.err)
		if got := fault.KindOf(err); got != c.kind || errors.Is(err, registry.ErrRejected) != c.rejected || !errors.Is(err, c.err) {
			t.Errorf("%v: got %v (%v), want %v, rejected=%v", c.err, err, got, c.kind, c.rejected)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"3.4.30": false, "3.5.0": false, "3.5.12": false, "2.3.8": false,
		"3.5.13": true, "3.5.33": true, "3.6.0": true, "3.7.3": true, "4.0.0": true, "3.7.0-rc.0": true, "": true, "main": true,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("checkVersion(%q): %v", v, fmt.Sprint(err))
		}
	}
}
