package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/vgw"
)

// archives writes backups and tenants' archives, and makes tenants of these. It implements admin.Archives.
type archives struct{ d *daemon }

// Backup implements admin.Archives.
func (a archives) Backup(ctx context.Context, w io.Writer, e audit.Entry) error {
	if err := a.d.store.Record(ctx, e); err != nil {
		return err
	}
	m, err := a.d.store.Backup(ctx, w, readBuild().Version, nil)
	if err != nil {
		return err
	}
	a.d.log.Info("backed up", "keys", m.End.Entries, "bytes", m.End.Bytes, "revision", m.Revision, "sha256", m.End.Sum)
	return nil
}

// The entries of a tenant's archive.
const (
	entryRecord = "record"
	entryObject = "object/" // kind/id
	entryHost   = "host/"
)

// storedRecord is the entry of the routing record.
type storedRecord struct {
	V      int            `json:"v"`
	Record *tenant.Record `json:"record"`
}

// tenantExport writes one tenant's archive.
type tenantExport struct {
	d       *daemon
	e       *tenant.Entry
	to      age.Recipient // nil: secrets are left out
	out     *archive.Writer
	key     *seal.DataKey
	secrets archive.Secrets
	omitted []string
}

// Export implements admin.Archives.
func (a archives) Export(ctx context.Context, t *tenant.Entry, recipient string, w io.Writer, e audit.Entry) error {
	x := &tenantExport{d: a.d, e: t, secrets: archive.Secrets{}}
	if recipient != "" {
		to, err := archive.ParseRecipient(recipient)
		if err != nil {
			return err
		}
		x.to = to
	}
	if err := a.d.store.Record(ctx, e); err != nil {
		return err
	}
	return x.write(ctx, w)
}

func (x *tenantExport) write(ctx context.Context, w io.Writer) error {
	snap, err := x.d.store.Snapshot(ctx, x.e.Scope)
	if err != nil {
		return err
	}
	x.e = snap.Entry
	if x.out, err = archive.NewWriter(w, archive.Manifest{
		Kind: archive.Tenant, Created: time.Now().UTC(), Software: readBuild().Version, Revision: snap.Revision,
		Tenant: string(x.e.Scope.ID()), UID: x.e.Scope.UID(), Secrets: x.to != nil,
	}); err != nil {
		return err
	}
	if err := x.record(); err != nil {
		return err
	}
	if err := x.objects(snap.Objects); err != nil {
		return err
	}
	if err := x.hosts(ctx); err != nil {
		return err
	}
	if x.to != nil {
		if err := x.out.PutSecrets(x.secrets, x.to); err != nil {
			return err
		}
	}
	_, err = x.out.Close(nil, x.omitted)
	return err
}

// secret puts a secret aside, or notes that it is left out.
func (x *tenantExport) secret(name string, open func() ([]byte, error)) error {
	if x.to == nil {
		x.omitted = append(x.omitted, name)
		return nil
	}
	plain, err := open()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	x.secrets[name] = plain
	return nil
}

// record writes the routing record. The hashes of keys are secrets: who has them gets in where the tenant is imported.
func (x *tenantExport) record() error {
	r := x.e.Record.Clone()
	r.Revision = 0
	for _, s := range recordSecrets(r) {
		if *s.value == "" {
			continue
		}
		sealed := *s.value
		if err := x.secret("record/secret/"+s.name, func() ([]byte, error) {
			plain, err := x.d.secrets.Open(r.ID, s.name, sealed)
			return []byte(plain), err
		}); err != nil {
			return err
		}
		*s.value = ""
	}
	if keys := r.Keys; len(keys) > 0 {
		if err := x.secret("record/keys", func() ([]byte, error) { return json.Marshal(keys) }); err != nil {
			return err
		}
		r.Keys = nil
	}
	b, err := json.Marshal(storedRecord{1, r})
	if err != nil {
		return err
	}
	return x.out.Put(entryRecord, b)
}

// recordSecret is a sealed field of a routing record, with the name that it is sealed for.
type recordSecret struct {
	name  string
	value *string
}

func recordSecrets(r *tenant.Record) []recordSecret {
	var all []recordSecret
	for i := range r.Authenticators {
		if o := r.Authenticators[i].OIDC; o != nil && o.Login != nil {
			all = append(all, recordSecret{r.Authenticators[i].Name, &o.Login.ClientSecret})
		}
	}
	if r.Dedicated != nil {
		all = append(all, recordSecret{"dedicated.client", &r.Dedicated.Client.Key})
	}
	if r.Certificates != nil && r.Certificates.ACME != nil {
		all = append(all, recordSecret{"certificates.acme", &r.Certificates.ACME.EABKey})
	}
	return all
}

// objects writes the tenant's state. The data key itself stays here: a tenant that is imported gets one of its own.
func (x *tenantExport) objects(all []tenant.Object) (err error) {
	for _, o := range all {
		if x.to != nil && o.Kind == vgw.DataKeyKind && o.ID == vgw.DataKeyID {
			if x.key, err = vgw.OpenDataKey(x.d.kek, x.e.Scope, o.Value); err != nil {
				return err
			}
		}
	}
	for _, o := range all {
		if o.Kind == vgw.DataKeyKind {
			continue
		}
		if err := x.object(o); err != nil {
			return err
		}
	}
	return nil
}

func (x *tenantExport) object(o tenant.Object) error {
	name := entryObject + o.Kind + "/" + o.ID
	p, ok, err := vgw.Export(x.key, x.e.Scope, o)
	if err != nil {
		return err
	}
	if !ok {
		x.omitted = append(x.omitted, name)
		return nil
	}
	for field, plain := range p.Secrets {
		if err := x.secret(name+"/"+field, func() ([]byte, error) { return []byte(plain), nil }); err != nil {
			return err
		}
	}
	return x.out.Put(name, p.Value)
}

// hosts writes the certificates. Those without their keys would be of no use; whoever imports the tenant orders others.
func (x *tenantExport) hosts(ctx context.Context) error {
	k, o := keep.New(x.d.store.Vault(), x.d.kek), vault.Of(x.e.Scope)
	for after := ""; ; {
		page, more, err := k.List(ctx, o, after, 0)
		if err != nil {
			return err
		}
		for _, h := range page {
			if after = h.Host; x.to == nil {
				x.omitted = append(x.omitted, entryHost+h.Host)
				continue
			}
			if err := x.host(ctx, k, o, h.Host); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// storedHost is the entry of a certificate.
type storedHost struct {
	V     int        `json:"v"`
	Host  *keep.Host `json:"host"`
	Chain []byte     `json:"chain"`
}

func (x *tenantExport) host(ctx context.Context, k *keep.Keeper, o vault.Owner, name string) error {
	h, err := k.Load(ctx, o, name)
	if errors.Is(err, vault.ErrDamaged) {
		x.omitted = append(x.omitted, entryHost+name)
		return nil
	}
	if err != nil {
		return err
	}
	if len(h.Chain) == 0 || len(h.Key) == 0 {
		return nil // an order under way is this platform's
	}
	x.secrets[entryHost+name] = h.Key
	b, err := json.Marshal(storedHost{1, h, h.Chain})
	if err != nil {
		return err
	}
	return x.out.Put(entryHost+name, b)
}

// reason of the suspension of a tenant that is being imported.
const importing = "being imported"

// tenantImport makes a tenant of an archive. Until all of it is there, the tenant is suspended.
type tenantImport struct {
	d       *daemon
	record  *tenant.Record
	objects map[string][]byte // by kind/id
	hosts   map[string]storedHost
	secrets archive.Secrets
}

// Import implements admin.Archives. All of the archive is read before anything is made.
func (a archives) Import(ctx context.Context, r io.Reader, as tenant.ID, entry audit.Entry) (*tenant.Entry, error) {
	m := &tenantImport{d: a.d, objects: map[string][]byte{}, hosts: map[string]storedHost{}, secrets: archive.Secrets{}}
	if err := m.read(r); err != nil {
		return nil, notArchive(err)
	}
	if as == "" {
		as = m.record.ID
	}
	state, reason := m.prepare(as)
	if err := m.check(); err != nil {
		return nil, err
	}
	if err := m.restoreSecrets(as); err != nil {
		return nil, err
	}
	entry.Tenant, entry.Resource = as, "tenant/"+string(as) // the request may not have named it
	e, err := a.d.store.CreateTenant(ctx, m.record, entry)
	if err != nil {
		return nil, err
	}
	if err := m.fill(ctx, e, entry); err != nil {
		return nil, fault.Wrap(fault.KindOf(err), err, "tenant %s was made and is not whole: delete it, and import it again", as)
	}
	next := entry
	next.ID = audit.NewID()
	next.Tenant, next.TenantUID = e.Scope.ID(), e.Scope.UID()
	return a.d.store.UpdateTenant(ctx, as, 0, func(r *tenant.Record) error {
		r.State, r.SuspendReason = state, reason
		return nil
	}, next)
}

func notArchive(err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.Wrap(fault.Invalid, err, "%s", err.Error())
}

func (m *tenantImport) read(r io.Reader) error {
	a, err := archive.NewReader(r)
	if err != nil {
		return err
	}
	if a.Manifest().Kind != archive.Tenant {
		return fault.New(fault.Invalid, "this is a backup of a whole platform: it is restored with polygate restore, while no replica runs")
	}
	for {
		name, value, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = m.take(name, value)
		}
		if err != nil {
			return err
		}
	}
	if m.record == nil {
		return fmt.Errorf("it holds no tenant: %w", archive.ErrDamaged)
	}
	return nil
}

func (m *tenantImport) take(name string, value []byte) error {
	if archive.Sealed(name) {
		return fault.New(fault.Invalid, "the archive's secrets are sealed: import it with polygate tenant import and the age identity that they are for")
	}
	if ok, err := m.secrets.Opened(name, value); ok {
		return err
	}
	if name == entryRecord {
		var s storedRecord
		if err := json.Unmarshal(value, &s); err != nil || s.Record == nil || s.V < 1 || s.V > 2 {
			return fmt.Errorf("the tenant's record cannot be read: %w", archive.ErrDamaged)
		}
		m.record = s.Record
		return nil
	}
	if host, ok := strings.CutPrefix(name, entryHost); ok {
		var s storedHost
		if err := json.Unmarshal(value, &s); err != nil || s.Host == nil || s.Host.Host != host {
			return fmt.Errorf("the certificate of %.64q cannot be read: %w", host, archive.ErrDamaged)
		}
		m.hosts[host] = s
		return nil
	}
	if object, ok := strings.CutPrefix(name, entryObject); ok {
		m.objects[object] = value
		return nil
	}
	return fault.New(fault.Invalid, "the archive holds %.64q, which this version does not know: use the version that wrote it", name)
}

// prepare makes the record that of a new tenant, and returns the state that it is to have in the end.
func (m *tenantImport) prepare(as tenant.ID) (tenant.State, string) {
	r := m.record
	state, reason := r.State, r.SuspendReason
	r.ID, r.UID, r.Revision = as, "", 0
	r.Source, r.File, r.CatalogDigest, r.PendingHosts = tenant.SourceAPI, "", "", nil
	r.State, r.SuspendReason = tenant.StateSuspended, importing
	return state, reason
}

// check refuses what the API would refuse, before anything is made: whoever had the archive may have changed it, and a host of the
// platform's own would be served in place of the platform.
func (m *tenantImport) check() error {
	for _, h := range m.record.Hosts {
		if err := m.d.reservedHost(h); err != nil {
			return err
		}
	}
	key := seal.NewDataKey() // for nothing but the attempt
	for object, value := range m.objects {
		kind, id, _ := strings.Cut(object, "/")
		if err := tenant.CheckSegment(id); err != nil {
			return fault.New(fault.Invalid, "the archive holds %.64q: %v", object, err)
		}
		if _, err := vgw.Import(key, tenant.Scope{}, kind, id, vgw.Portable{Value: value, Secrets: m.secretsOf(entryObject + object + "/")}); err != nil {
			return err
		}
	}
	return nil
}

// restoreSecrets puts the secrets of the record in their places, sealed for this platform.
func (m *tenantImport) restoreSecrets(as tenant.ID) error {
	for _, s := range recordSecrets(m.record) {
		*s.value = m.d.secrets.Seal(as, s.name, string(m.secrets["record/secret/"+s.name]))
	}
	dropHalves(m.record)
	m.record.Keys = nil
	if b, ok := m.secrets["record/keys"]; ok {
		if err := json.Unmarshal(b, &m.record.Keys); err != nil {
			return fault.Wrap(fault.Invalid, archive.ErrDamaged, "the archive's keys cannot be read")
		}
	}
	r := m.record // no file declares anything of it here
	for i := range r.Keys {
		r.Keys[i].Source = tenant.SourceAPI
	}
	for i := range r.Members {
		r.Members[i].Source = tenant.SourceAPI
	}
	for i := range r.Authenticators {
		r.Authenticators[i].Source = tenant.SourceAPI
	}
	return nil
}

// dropHalves removes what is worth nothing without the secret that was left out, and is refused without it.
func dropHalves(r *tenant.Record) {
	if d := r.Dedicated; d != nil && d.Client.Key == "" {
		d.Client.Chain = ""
	}
	if c := r.Certificates; c != nil && c.ACME != nil && c.ACME.EABKey == "" {
		c.ACME.EABKeyID = ""
	}
}

// fill writes what the tenant has beside its record.
func (m *tenantImport) fill(ctx context.Context, e *tenant.Entry, entry audit.Entry) error {
	claim, err := m.d.store.Claim(ctx, e.Scope)
	if err != nil {
		return err
	}
	err = m.state(ctx, claim.Commit, e, entry)
	if err := errors.Join(err, claim.Release(ctx)); err != nil {
		return err
	}
	k := keep.New(m.d.store.Vault(), m.d.kek)
	for host, s := range m.hosts {
		h := *s.Host
		h.Chain, h.Key, h.Revision = s.Chain, m.secrets[entryHost+host], 0
		none := int64(0)
		if err := k.Save(ctx, vault.Of(e.Scope), &h, keep.SaveOptions{IfRevision: &none, Due: time.Now()}); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of the commits of an import.
const (
	importWrites = 50
	importBytes  = 512 << 10
)

// state commits the objects, sealed with a data key of the new tenant's own.
func (m *tenantImport) state(ctx context.Context, commit func(context.Context, audit.Entry, ...tenant.Write) error, e *tenant.Entry, entry audit.Entry) error {
	key, first, err := vgw.NewDataKey(m.d.kek, e.Scope)
	if err != nil {
		return err
	}
	batch, size := []tenant.Write{first}, 0
	flush := func() error {
		next := entry
		next.ID, next.Tenant, next.TenantUID, next.Resource = audit.NewID(), e.Scope.ID(), e.Scope.UID(), "tenant/"+string(e.Scope.ID())+"/state"
		err := commit(ctx, next, batch...)
		batch, size = nil, 0
		return err
	}
	for object, value := range m.objects {
		kind, id, _ := strings.Cut(object, "/")
		w, err := vgw.Import(key, e.Scope, kind, id, vgw.Portable{Value: value, Secrets: m.secretsOf(entryObject + object + "/")})
		if err != nil {
			return err
		}
		if len(batch) > 0 && (len(batch) >= importWrites || size+len(w.Value) > importBytes) {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, w), size+len(w.Value)
	}
	return flush()
}

func (m *tenantImport) secretsOf(prefix string) map[string]string {
	out := make(map[string]string)
	for name, value := range m.secrets {
		if field, ok := strings.CutPrefix(name, prefix); ok {
			out[field] = string(value)
		}
	}
	return out
}
