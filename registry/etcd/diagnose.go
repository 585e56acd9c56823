package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

const diagnoseTimeout = time.Second // for each endpoint

// diagnose says of each endpoint why it is not reached, which the client does not tell: it tries again and again until
// its time is over. Other errors pass through.
func diagnose(ctx context.Context, endpoints []string, conf *tls.Config, err error) error {
	if !fault.Is(err, fault.Unavailable) || errors.Is(err, registry.ErrRejected) {
		return err
	}
	whys := make([]string, 0, len(endpoints))
	for _, ep := range endpoints {
		whys = append(whys, ep+": "+why(context.WithoutCancel(ctx), ep, conf))
	}
	return fault.Wrap(fault.Unavailable, err, "no member of etcd answers: %s", strings.Join(whys, "; "))
}

func why(ctx context.Context, endpoint string, conf *tls.Config) string {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "it does not answer"
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return "it cannot be reached: " + err.Error()
	}
	defer conn.Close()
	if u.Scheme == "http" {
		return "it takes connections but does not answer: it may have no leader, or want https"
	}
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf = conf.Clone()
	conf.ServerName = u.Hostname()
	return whyTLS(tls.Client(conn, conf).HandshakeContext(ctx))
}

const noTLS = "it does not speak TLS: its endpoint may have to begin with http://"

func whyTLS(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		record    tls.RecordHeaderError
	)
	switch {
	case err == nil:
		return "it takes connections but does not answer: it may have no leader, or not accept the client certificate (etcd.tls.cert)"
	case errors.As(err, &authority):
		return "its certificate is not of the configured CA (etcd.tls.ca)"
	case errors.As(err, &host):
		return "its certificate is for another name: " + host.Error()
	case errors.As(err, &record):
		return noTLS
	case errors.Is(err, io.EOF): // etcd hangs up on bytes that are not HTTP
		return noTLS + ", or it wants a client certificate (etcd.tls.cert)"
	}
	return fmt.Sprintf("TLS fails: %v", err)
}
