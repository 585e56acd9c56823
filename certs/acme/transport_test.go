package acme

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A server that answers large and often fills no memory: the library keeps all chains and authorizations that one names.
func TestAllAnswersAreBounded(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, maxBody-1))
	}))
	t.Cleanup(server.Close)
	e, err := New(Config{HTTP01: true})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := e.transport(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	if err != nil {
		t.Fatal(err)
	}
	defer tr.base.CloseIdleConnections()
	client, read := tr.client(defaultRequestTime), 0
	for range 2 * maxAnswers / maxBody {
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if read += len(body); err != nil {
			if !errors.Is(err, errBodyLarge) || read > maxAnswers || read < maxAnswers-maxBody {
				t.Errorf("after %d bytes: %v", read, err)
			}
			return
		}
	}
	t.Errorf("%d bytes were taken", read)
}
