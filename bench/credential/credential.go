// Package credential gives the callers of a load their bearer tokens: API keys as they are, JWTs made from a key, and access tokens from
// an OpenID provider's token endpoint; beside a small provider for a laboratory on loopback. It also
// says which addresses may be connected to at all, and keeps secrets out of messages. It leaves sending tokens to bench/client.
package credential

import (
	"context"
	"fmt"
)

// Source gives bearer tokens.
type Source interface {
	// Token returns a token for the tenant with that number. It is kept until shortly before its end, so that asking before every
	// request is cheap. Safe for concurrent use.
	Token(ctx context.Context, tenant int) (string, error)
}

// keys are tokens by tenant.
type keys []string

// Keys returns a source that gives each tenant its own key.
func Keys(list []string) Source { return keys(list) }

// Token returns the tenant's key.
func (k keys) Token(_ context.Context, tenant int) (string, error) {
	if tenant < 0 || tenant >= len(k) {
		return "", fmt.Errorf("there is no key for tenant number %d, only %d keys: give each tenant one", tenant, len(k))
	}
	return k[tenant], nil
}
