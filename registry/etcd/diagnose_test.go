package etcd_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

// TestUnreachableWhy: at start it is said of each endpoint, in one line, why it is not reached.
func TestUnreachableWhy(t *testing.T) {
	t.Parallel()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for _, c := range []struct{ name, endpoint, want string }{
		{"nobody there", "http://" + etcdtest.FreeAddress(t), "cannot be reached: "},
		{"another CA", secure.URL, "not of the configured CA (etcd.tls.ca)"},
		{"an etcd without TLS", strings.Replace(etcdtest.Start(t, 1, etcdtest.Options{}).Endpoints()[0], "http", "https", 1), "does not speak TLS"},
		{"no TLS", strings.Replace(plain.URL, "http", "https", 1), "does not speak TLS"},
	} {
		b, err := etcd.New(etcd.Config{
			Endpoints: []string{c.endpoint}, RequestTimeout: 300 * time.Millisecond,
			TLS: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = b.Check(t.Context())
		_ = b.Close()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", c.name, err, c.want)
		}
	}
}
