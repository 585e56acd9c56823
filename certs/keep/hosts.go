package keep

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// MaxPage bounds what List returns at once.
const MaxPage = 200

// SaveOptions are the conditions and the company of a Save.
type SaveOptions struct {
	// IfRevision is what the stored record must be: 0 = there is none yet; nil = whatever is there is replaced, also what
	// cannot be read.
	IfRevision *int64
	Fences     []vault.Lock // all of these must be held still
	Due        time.Time    // when the host is to be looked at; zero = never
	WasDue     time.Time    // what Due was the last time
	Audit      *audit.Entry // recorded in the same transaction; nil = nothing
}

// HostOf returns the host whose record lies under a key of the vault, as its subscribers see it.
func HostOf(key string) (host string, ok bool) {
	host, ok = strings.CutPrefix(key, dirHosts+"/")
	return host, ok && checkHost(host) == nil
}

// IsTickets says whether the session ticket keys lie under a key of the vault.
func IsTickets(owner, key string) bool {
	return owner == vault.PlatformOwner && key == keyTickets
}

func hostKey(host string) (string, error) {
	if err := checkHost(host); err != nil {
		return "", err
	}
	return dirHosts + "/" + host, nil
}

// Load returns the record of a host, with its key; fault.NotFound if there is none, or no such owner any more.
func (k *Keeper) Load(ctx context.Context, o vault.Owner, host string) (*Host, error) {
	key, err := hostKey(host)
	if err != nil {
		return nil, err
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	it, err := k.getWithKey(ctx, o, key)
	if err != nil {
		return nil, fmt.Errorf("load the certificate of %s: %w", host, err)
	}
	h, err := k.read(ctx, o, host, it)
	if err != nil {
		return nil, fmt.Errorf("load the certificate of %s (import, renew or remove it if this stays): %w", host, err)
	}
	return h, nil
}

func (k *Keeper) read(ctx context.Context, o vault.Owner, host string, it vault.Item) (*Host, error) {
	h, sealed, err := decodeHost(host, it.Value)
	if err != nil {
		return nil, err
	}
	h.Revision, h.Modified = it.Revision, it.Modified
	if len(sealed) > 0 {
		h.Key, err = k.open(ctx, o, dirHosts+"/"+host, sealed)
	}
	return h, err
}

// Save stores the record of a host and sets its revision. The error is fault.PreconditionFailed if IfRevision does not hold,
// and wraps vault.ErrFenced if a fence was lost; nothing is stored then.
func (k *Keeper) Save(ctx context.Context, o vault.Owner, h *Host, opt SaveOptions) error {
	if err := h.check(); err != nil {
		return err
	}
	if err := ended(ctx); err != nil {
		return err
	}
	rev, err := k.commit(ctx, o, func(d *dataKey) (vault.Batch, error) { return saving(o, h, d, opt) })
	if err != nil {
		return fmt.Errorf("save the certificate of %s: %w", h.Host, err)
	}
	h.Revision = rev
	return nil
}

// saving makes the batch of a Save.
func saving(o vault.Owner, h *Host, d *dataKey, opt SaveOptions) (b vault.Batch, err error) {
	key := dirHosts + "/" + h.Host
	var sealed []byte
	if len(h.Key) > 0 {
		if sealed, err = d.Seal(h.Key, place(o, key)...); err != nil {
			return b, fmt.Errorf("seal the key: %w", err)
		}
	}
	value, err := h.encode(sealed)
	if err != nil {
		return b, err
	}
	b = vault.Batch{Puts: []vault.Put{{Key: key, Value: value}}, Fences: opt.Fences, Audit: opt.Audit}
	if opt.IfRevision != nil {
		b.If = []vault.Compare{{Key: key, Revision: *opt.IfRevision}}
	}
	if m, ok := opt.move(h.Host); ok {
		b.Moves = []vault.Move{m}
	}
	return b, nil
}

// move makes the change of when a host is due. A mark that stays is set all the same: it may have been taken down.
func (opt SaveOptions) move(host string) (vault.Move, bool) {
	m := vault.Move{Name: host, From: opt.WasDue, To: opt.Due}
	if m.From.Equal(m.To) {
		m.From = time.Time{}
	}
	return m, !m.From.IsZero() || !m.To.IsZero()
}

// Remove removes the record of a host, also one that cannot be read. ifRevision is what it must be, 0 = whatever is there.
// The error is fault.NotFound if there is none, fault.PreconditionFailed if it has another revision. A mark of when it is due
// stays, and is for whoever finds it.
func (k *Keeper) Remove(ctx context.Context, o vault.Owner, host string, ifRevision int64, entry *audit.Entry) error {
	key, err := hostKey(host)
	if err != nil {
		return err
	}
	for turn := 1; ; turn++ {
		if err := ended(ctx); err != nil {
			return err
		}
		it, err := k.vault.Get(ctx, o, key)
		if err != nil && it.Revision == 0 {
			return fmt.Errorf("remove the certificate of %s: %w", host, err)
		}
		rev := ifRevision
		if rev == 0 {
			rev = it.Revision
		}
		_, err = k.vault.Commit(ctx, o, vault.Batch{
			If: []vault.Compare{{Key: key, Revision: rev}}, Deletes: []string{key}, Audit: entry,
		})
		if err == nil {
			return nil
		}
		if ifRevision != 0 || !fault.Is(err, fault.PreconditionFailed) || turn == maxTurns {
			return fmt.Errorf("remove the certificate of %s: %w", host, err)
		}
	}
}

// List returns the records of an owner's hosts after a host, in the order of their names, at most limit (0 or too many =
// MaxPage), without their keys: they are for people. One that cannot be read is listed with its name and Order.Code CodeDamaged.
func (k *Keeper) List(ctx context.Context, o vault.Owner, after string, limit int) (hosts []*Host, more bool, err error) {
	if after != "" {
		if after, err = hostKey(after); err != nil {
			return nil, false, err
		}
	}
	if err := ended(ctx); err != nil {
		return nil, false, err
	}
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	items, more, err := k.vault.List(ctx, o, dirHosts, after, limit)
	if err != nil {
		return nil, false, fmt.Errorf("list the certificates of %s: %w", o.Segment(), err)
	}
	for _, it := range items {
		if host, ok := HostOf(it.Key); ok {
			hosts = append(hosts, shown(host, it))
		}
	}
	return hosts, more, nil
}

func shown(host string, it vault.Item) *Host {
	h, err := (*Host)(nil), it.Err
	if err == nil {
		h, _, err = decodeHost(host, it.Value)
	}
	if err != nil {
		h = &Host{V: version, Host: host, Order: Order{Code: CodeDamaged, Error: err.Error() + ": import, renew or remove it"}}
	}
	h.Revision, h.Modified = it.Revision, it.Modified
	return h
}
