package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/dynamic"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"
	rbacv1client "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/polygate/polygate/internal/fault"
)

// cluster is the one client of a cluster: its connections, its rate, its circuit. All its calls go through call, which bounds them
// in time.
type cluster struct {
	config    Config
	rest      *rest.Config
	core      corev1client.CoreV1Interface
	network   networkingv1client.NetworkingV1Interface
	rbac      rbacv1client.RbacV1Interface
	dynamic   dynamic.Interface
	metadata  metadata.Interface
	circuit   *circuit
	served    served
	unmetered until // metrics are not asked for before
}

// dial builds the client. It reads files and calls nobody.
func dial(c Config) (*cluster, error) {
	rc, err := restConfig(c)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the cluster's configuration cannot be read: check sandboxes.kube")
	}
	rc.Timeout = 0 // each call has its own bound: watches, logs and execs have none
	rc.UserAgent = "polygate/" + c.Instance
	rc.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(c.QPS, c.Burst)
	rc.WarningHandlerWithContext = rest.NoWarnings{}
	h, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the cluster's configuration cannot be used: check its certificates")
	}
	typed := rest.CopyConfig(rc)
	typed.ContentType = "application/vnd.kubernetes.protobuf"
	typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	core, err1 := corev1client.NewForConfigAndClient(typed, h)
	network, err2 := networkingv1client.NewForConfigAndClient(typed, h)
	rbac, err3 := rbacv1client.NewForConfigAndClient(typed, h)
	dyn, err4 := dynamic.NewForConfigAndClient(rc, h)
	meta, err5 := metadata.NewForConfigAndClient(metadata.ConfigFor(rc), h)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the cluster's configuration cannot be used")
	}
	return &cluster{
		config: c, rest: rc, core: core, network: network, rbac: rbac, dynamic: dyn, metadata: meta,
		circuit: newCircuit("cluster", c.Logger),
	}, nil
}

func restConfig(c Config) (*rest.Config, error) {
	if c.InCluster {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// call makes a call of the cluster, within its time and only while the circuit allows it, and classifies its error. what completes
// "cannot …", such as "read the pod".
func (c *cluster) call(ctx context.Context, what string, f func(context.Context) error) error {
	return classify(what, c.circuit.do(func() error { return c.bounded(ctx, f) }))
}

// bounded makes a call within its time.
func (c *cluster) bounded(ctx context.Context, f func(context.Context) error) error {
	bound, cancel := context.WithTimeoutCause(ctx, c.config.Timeout, errSlow)
	defer cancel()
	err := f(bound)
	if err != nil && ctx.Err() == nil && context.Cause(bound) == errSlow { //nolint:errorlint // the very cause that was set above
		return fmt.Errorf("%w after %v: %w", errSlow, c.config.Timeout, err)
	}
	return err
}

// until returns a context for a stream: it ends with ctx, and when answered is not called within the cluster's timeout.
func (c *cluster) until(ctx context.Context) (stream context.Context, answered func(), cancel context.CancelFunc) {
	stream, end := context.WithCancelCause(ctx)
	t := time.AfterFunc(c.config.Timeout, func() { end(errSlow) })
	return stream, func() { t.Stop() }, func() { t.Stop(); end(context.Canceled) }
}

var errSlow = errors.New("the cluster did not answer")
