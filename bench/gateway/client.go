package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
)

// hostClient is a client for tenants' hosts, all of which are at one address, whatever their names say elsewhere.
func hostClient(addr string, roots *x509.CertPool) *http.Client {
	return &http.Client{Timeout: callLimit, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
}
