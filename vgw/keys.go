package vgw

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// KeyUse knows when keys were last used.
type KeyUse interface {
	// LastUsed returns the last use of the tenant's keys, by their ids.
	LastUsed(ctx context.Context, s tenant.Scope) (map[string]time.Time, error)
}

// keyView is a key as its administrators see it.
type keyView struct {
	ID              string        `json:"id"`
	Name            string        `json:"name"`
	Role            string        `json:"role"`
	Bot             string        `json:"bot,omitzero"` // the id of the bot whose key it is
	Source          tenant.Source `json:"source"`
	File            string        `json:"file,omitzero"`
	Created         time.Time     `json:"created"`
	Updated         time.Time     `json:"updated"`
	Expires         time.Time     `json:"expires,omitzero"`
	Expired         bool          `json:"expired,omitzero"`
	LastUsed        time.Time     `json:"last_used,omitzero"`
	ResourceVersion string        `json:"resource_version"` // also the ETag
	Key             string        `json:"key,omitzero"`     // the key itself: in the answer to its creation, and never again
}

func (c *call) keyView(r *tenant.Record, k *tenant.Key, used map[string]time.Time) keyView {
	v := keyView{
		ID: k.ID, Name: k.Name, Role: k.Role.String(), Bot: k.Bot, Source: k.Source, Created: k.Created, Updated: k.Created,
		Expires: k.Expires, Expired: k.Expired(c.now()), LastUsed: used[k.ID], ResourceVersion: strconv.FormatInt(keyVersion(k), 10),
	}
	if k.Source == tenant.SourceFile {
		v.File = r.File
	}
	return v
}

// keyVersion returns a key's resource version. But for the end of a bot's key the API never changes one, so its creation
// tells versions of a name apart.
func keyVersion(k *tenant.Key) int64 { return max(k.Created.UnixMicro(), 1) }

// lastUsed returns when the tenant's keys were last used. Not to know it is no reason to show no keys.
func (c *call) lastUsed(ctx context.Context) map[string]time.Time {
	if c.cfg.KeyUse == nil {
		return nil
	}
	used, err := c.cfg.KeyUse.LastUsed(ctx, c.e.Scope)
	if err != nil {
		c.cfg.Logger.WarnContext(ctx, "the last use of keys cannot be read", "tenant", c.e.Scope.String(), "err", err)
	}
	return used
}

func listKeys(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.KeyList, "key")
	if err != nil {
		return nil, err
	}
	var keys []*tenant.Key
	for i := range c.e.Record.Keys {
		if may {
			keys = append(keys, &c.e.Record.Keys[i])
		}
	}
	var used map[string]time.Time
	if len(keys) > 0 {
		used = c.lastUsed(ctx)
	}
	slices.SortFunc(keys, func(a, b *tenant.Key) int { return strings.Compare(a.Name, b.Name) })
	return answerList(c, permit, keys, func(k *tenant.Key) string { return k.Name }, func(k *tenant.Key) keyView {
		return c.keyView(c.e.Record, k, used)
	})
}

// keyBody is the body of POST /api/v1/keys.
type keyBody struct {
	Name      string     `json:"name"`
	Role      string     `json:"role"` // "" = editor
	ExpiresIn *int64     `json:"expires_in_seconds"`
	Expires   *time.Time `json:"expires"`
}

func createKey(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[keyBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.KeyCreate, Resource: "key/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	key, secret, err := c.newKey(body)
	if err != nil {
		return nil, permit.Settle(err)
	}
	e, err := c.change(ctx, permit, c.addKey(key))
	if err != nil {
		return nil, err
	}
	return c.replyKey(e, &key, secret)
}

// replyKey answers with a new key, which is shown this once.
func (c *call) replyKey(e *tenant.Entry, key *tenant.Key, secret string) (exchange.Decision, error) {
	v := c.keyView(e.Record, key, nil)
	v.Key = secret
	d, err := reply(201, v)
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(keyVersion(key)))
	return d, nil
}

// newKey makes the key that body asks for, if the caller may grant its role.
func (c *call) newKey(body keyBody) (tenant.Key, string, error) {
	if err := checkName(body.Name); err != nil {
		return tenant.Key{}, "", err
	}
	role, err := c.grantable(body.Role)
	if err != nil {
		return tenant.Key{}, "", err
	}
	now := c.now().UTC()
	ends, err := term{body.ExpiresIn, body.Expires, "expires"}.end(now, keySpan())
	if err != nil {
		return tenant.Key{}, "", err
	}
	secret, hash := authn.NewKey()
	return tenant.Key{ID: uuid.NewString(), Name: body.Name, Hash: hash, Role: role, Expires: ends, Source: tenant.SourceAPI, Created: now}, secret, nil
}

// checkName checks the name of something that is found by its name or id.
func checkName(name string) error {
	if err := tenant.CheckName("name", name, false); err != nil {
		return err
	}
	if _, err := uuid.Parse(name); err == nil {
		return fault.New(fault.Invalid, "name looks like an id, by which another one could be meant")
	}
	return nil
}

func (c *call) addKey(key tenant.Key) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		if have, ok := r.KeyByName(key.Name); ok {
			if err := declared(r, have.Source, "key", have.Name); err != nil {
				return err
			}
			return fault.New(fault.Conflict, "there is a key %q already", key.Name)
		}
		if len(r.Keys) >= tenant.MaxKeys { // those that are dead already make room first
			r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.Source == tenant.SourceAPI && k.Expired(c.now()) })
		}
		if n := len(r.Keys); n >= tenant.MaxKeys {
			return fault.New(fault.Conflict, "there are %d keys, the most that a tenant may have: revoke one", n)
		}
		r.Keys = append(r.Keys, key)
		return nil
	}
}

func revokeKey(ctx context.Context, c *call) (exchange.Decision, error) {
	return c.remove(ctx, authz.KeyRevoke, "key/", dropKey)
}

// dropKey removes the key of a name or id, a bot's too.
func dropKey(name string, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		k, ok := r.KeyByName(name)
		if !ok {
			return fault.New(fault.NotFound, "no key %q", name)
		}
		if err := declared(r, k.Source, "key", k.Name); err != nil {
			return err
		}
		if !pre.allows(keyVersion(k)) {
			return stale(keyVersion(k))
		}
		id := k.ID
		r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.ID == id })
		return nil
	}
}
