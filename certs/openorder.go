package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/certmagic"
)

// openOrder is what is kept of an order from before its certificate is issued until that is stored: with it, a process that
// ends in between costs no second certificate. It lies sealed among the files of the host's owner.
type openOrder struct {
	V         int       `json:"v"`
	Directory string    `json:"directory"`
	URL       string    `json:"url"`
	Key       []byte    `json:"key"` // PKCS #8
	At        time.Time `json:"at"`

	key *ecdsa.PrivateKey
}

const (
	openOrderVersion = 1
	// openOrderLife is for how long an order is worth looking at again. It is far shorter than any certificate's life: what is
	// left of an order that was stored must never stand in for a renewal.
	openOrderLife = 24 * time.Hour
)

// openOrderFile is where the open order of a host lies.
func openOrderFile(host string) string { return "orders/" + host }

// findOrder returns the open order of a host at a directory, or a new key without one.
func (m *Manager) findOrder(ctx context.Context, s certmagic.Storage, host, directory string) (*openOrder, error) {
	if o := m.readOrder(ctx, s, host); o != nil && o.Directory == directory {
		return o, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &openOrder{V: openOrderVersion, Directory: directory, key: key}, nil
}

// readOrder returns nil for what is not there, too old, or cannot be read: it is only there to save an order.
func (m *Manager) readOrder(ctx context.Context, s certmagic.Storage, host string) *openOrder {
	b, err := s.Load(ctx, openOrderFile(host))
	if err != nil {
		return nil
	}
	o := new(openOrder)
	if json.Unmarshal(b, o) != nil || o.V != openOrderVersion || o.URL == "" {
		return nil
	}
	if age := m.cfg.Now().Sub(o.At); age < 0 || age > openOrderLife {
		return nil
	}
	key, err := x509.ParsePKCS8PrivateKey(o.Key)
	if err != nil {
		return nil
	}
	o.key, _ = key.(*ecdsa.PrivateKey)
	if o.key == nil {
		return nil
	}
	return o
}

// keepOrder writes an order down that is about to be issued.
func (m *Manager) keepOrder(ctx context.Context, s certmagic.Storage, host string, o *openOrder, url string) error {
	der, err := x509.MarshalPKCS8PrivateKey(o.key)
	if err != nil {
		return err
	}
	b, err := json.Marshal(openOrder{V: openOrderVersion, Directory: o.Directory, URL: url, Key: der, At: m.cfg.Now().UTC()})
	if err != nil {
		return err
	}
	if err := s.Store(ctx, openOrderFile(host), b); err != nil {
		return fmt.Errorf("write the order down: %w", err)
	}
	return nil
}

// dropOrder forgets the open order of a host. What is left of it if that fails is passed over later: see openOrderLife.
func (m *Manager) dropOrder(ctx context.Context, s certmagic.Storage, host string) {
	if err := s.Delete(ctx, openOrderFile(host)); err != nil {
		m.cfg.Logger.Debug("an order that is done could not be forgotten", "host", host, "error", err)
	}
}
