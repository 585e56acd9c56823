package etcd

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

// classify gives an error of etcd its kind, and where people can do something about it, a sentence that says what.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: %w", registry.ErrCompacted, err)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%w: %w", registry.ErrLeaseNotFound, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fault.Wrap(fault.TooLarge, err, "the change is larger than etcd accepts")
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fault.Wrap(fault.TooLarge, err, "the change has more parts than etcd accepts: set its --max-txn-ops to 256 or more")
	case errors.Is(err, rpctypes.ErrNoSpace):
		return rejected(err, "etcd's database is full: compact and defragment it, then disarm its NOSPACE alarm")
	case errors.Is(err, rpctypes.ErrCorrupt):
		return rejected(err, "etcd reports a corrupt member")
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return rejected(err, "a user is configured for etcd (etcd.user), but etcd has authentication switched off")
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return rejected(err, "etcd wants to know who asks: set etcd.user and etcd.password_file")
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return rejected(err, "etcd does not accept the configured user and password (etcd.user, etcd.password_file)")
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return rejected(err, "etcd does not let the configured user (etcd.user) read and write everything under etcd.prefix: grant it a role that does")
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return rejected(err, "the other members of etcd must have been connected for some seconds, and more than half of them must stay: try again then")
	}
	return classifyCode(err)
}

// classifyCode goes by the gRPC code where etcd has no error of its own.
func classifyCode(err error) error {
	code := status.Code(err)
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		code = e.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded:
		return fault.Wrap(fault.Unavailable, err, "etcd did not answer in time")
	case errors.Is(err, context.Canceled), code == codes.Canceled:
		return fault.Wrap(fault.Unavailable, err, "the request to etcd was broken off")
	case code == codes.Unavailable:
		return fault.Wrap(fault.Unavailable, err, "etcd cannot be reached or has no leader")
	case code == codes.ResourceExhausted:
		return fault.Wrap(fault.Unavailable, err, "etcd is overloaded, or the change is too large for it")
	case code == codes.Unauthenticated, code == codes.PermissionDenied:
		return rejected(err, "etcd does not accept the configured user")
	case code == codes.Unimplemented:
		return rejected(err, "etcd does not know a request that is needed: its version is too old, or it is not etcd")
	}
	return classifyRest(err, code)
}

// classifyRest: what etcd or gRPC answers with one of these codes was not done. Of the others (a broken stream is
// Internal, an error that etcd has no name for Unknown) nobody can say.
func classifyRest(err error, code codes.Code) error {
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.NotFound, codes.AlreadyExists:
		return fmt.Errorf("etcd: %w", err)
	default:
		return fault.Wrap(fault.Unavailable, err, "etcd failed without a clear answer")
	}
}

// rejected is an Unavailable whose outcome is certain.
func rejected(err error, why string) error {
	return fault.Wrap(fault.Unavailable, fmt.Errorf("%w: %w", registry.ErrRejected, err), "%s", why)
}
