package certs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
)

// rewrapStore is what RewrapAuthority needs of the platform's data. *registry.Platform implements it.
type rewrapStore interface {
	Get(ctx context.Context, key string) (value []byte, rev int64, err error)
	Put(ctx context.Context, key string, value []byte, ifRev int64) error
}

// RewrapAuthority has the private key of the local authority wrapped by the key-encryption key that is in force now, and says
// whether it was by another one. Certificate and key stay as they are. fault.PreconditionFailed where another replica was faster.
func RewrapAuthority(ctx context.Context, s rewrapStore, ring seal.Rewrapper) (changed bool, err error) {
	value, rev, err := s.Get(ctx, rootKey)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("certs: read the local authority: %w", err)
	}
	var r root
	members := make(map[string]json.RawMessage)
	if err := json.Unmarshal(value, &r); err != nil {
		return false, fmt.Errorf("certs: the stored local authority is damaged: %w", err)
	}
	if err := json.Unmarshal(value, &members); err != nil {
		return false, fmt.Errorf("certs: the stored local authority is damaged: %w", err)
	}
	envelope, changed, err := ring.Rewrap(r.Key, rootKey)
	if err != nil || !changed {
		return false, err
	}
	if members["key"], err = json.Marshal(envelope); err != nil {
		return false, err
	}
	if value, err = json.Marshal(members); err != nil {
		return false, err
	}
	if err := s.Put(ctx, rootKey, value, rev); err != nil {
		return false, fmt.Errorf("certs: store the local authority: %w", err)
	}
	return true, nil
}
