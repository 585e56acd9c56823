package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// MaxTenants bounds the tenants of one file; more come through the API.
const MaxTenants = 50_000

// Options are what LoadTenants needs to know of the platform.
type Options struct {
	BaseDomain string             // see Platform
	Reserved   []string           // hosts that no tenant may have: the shared and admin hosts
	MaxServers int                // of a tenant without a quota of its own; 0 = no limit
	DigestKey  []byte             // keys the digests of catalogs, which would otherwise betray short secrets in them
	Check      func(Server) error // further rules for a server, such as vgw/catalog's; nil = none
	// Env looks up the variables that value_env names, as os.LookupEnv does; nil = there are none.
	Env func(name string) (string, bool)

	Ceilings     tenant.Quotas    // that no tenant may declare more than; a zero field = none. See TenantQuotas
	PolicyLimits policy.Limits    // of the bundles that policy_dir names
	CheckPolicy  policyCheck      // compiles a bundle, such as policy.Check; nil = bundles are read only
	Seal         secretSeal       // seals an authenticator's client secret, or one of SecretACME and SecretDedicatedClient; nil = it is read, and left out of the record
	Now          func() time.Time // tells whether a bot's key ends within a year; nil = time.Now
}

type (
	// policyCheck says what is wrong with a bundle. A policy.CompileError in it gives the places. It is called once for each
	// folder and load, so it does well to remember the digests of bundles that it found right.
	policyCheck = func(*policy.Bundle) error
	// secretSeal must return the same for the same arguments, or every load of an unchanged file would be a change.
	secretSeal = func(id tenant.ID, name, plain string) (string, error)
)

// Tenants is a tenants.yaml that was read, with its catalogs, and found to be right.
type Tenants struct {
	File  string   // its name, without folders: what records of its tenants carry
	Path  string   // as it was opened
	List  []Tenant // in the order of the file
	Files []string // every file that was read, to be watched: the file itself, catalogs, values; and CertificateFiles
	// Warnings are what is allowed, but that somebody should know.
	Warnings Errors
}

// Tenant is one declared tenant.
type Tenant struct {
	Record  *tenant.Record // what is declared; no UID, times, and key ids: the registry's record has those
	Servers []Server       // the servers of its catalog file, in the file's order
	// CatalogDigest changes when the servers do, header values included. It is empty without a catalog file.
	CatalogDigest string
	// Policy is the bundle in the folder that policy_dir names, PolicyDir, and its digest; nil and empty without one.
	Policy       *policy.Bundle
	PolicyDir    string
	PolicyDigest string
	// CertificateFiles are the pairs of files with its certificates. They are not read with the rest: one that is broken must
	// not hold up other tenants. See ReadCertificates.
	CertificateFiles []CertificateFile
	// StateDeclared says that the file has a state for the tenant. Otherwise an operator may suspend and resume it.
	StateDeclared bool

	at             position            // of the tenant
	hosts          map[string]position // of each host
	keys           map[tenant.Hash]position
	bots           map[string]position
	authenticators map[string]position
	policyAt       position
}

// The YAML forms.
type tenantsFile struct {
	Tenants []tenantForm `yaml:"tenants"`
}

type tenantForm struct {
	ID             string              `yaml:"id"`
	DisplayName    string              `yaml:"display_name"`
	Namespace      string              `yaml:"namespace"`
	State          string              `yaml:"state"`
	SuspendReason  string              `yaml:"suspend_reason"`
	Mode           string              `yaml:"mode"`
	Dedicated      *dedicatedForm      `yaml:"dedicated"`
	Passthrough    *passthroughForm    `yaml:"passthrough"`
	TLS            *tlsForm            `yaml:"tls"`
	Certificates   *certificatesForm   `yaml:"certificates"`
	Hosts          []string            `yaml:"hosts"`
	APIKeys        []keyForm           `yaml:"api_keys"`
	Bots           []botForm           `yaml:"bots"`
	Members        []memberForm        `yaml:"members"`
	Authenticators []authenticatorForm `yaml:"authenticators"`
	AllowedOrigins []string            `yaml:"allowed_origins"`
	PolicyDir      string              `yaml:"policy_dir"`
	Quotas         Quotas              `yaml:"quotas"`
	Sandboxes      *sandboxesForm      `yaml:"sandboxes"`
	CatalogFile    string              `yaml:"catalog_file"`
}

type sandboxesForm struct {
	PodSecurity    string   `yaml:"pod_security"`
	Network        string   `yaml:"network"`
	Adopted        bool     `yaml:"adopted"`
	Images         []string `yaml:"images"`
	RuntimeClasses []string `yaml:"runtime_classes"`
	Egress         []string `yaml:"egress"`
}

type dedicatedForm struct {
	Upstream          string `yaml:"upstream"`
	Auth              string `yaml:"auth"`
	Identity          string `yaml:"identity"`
	CAFile            string `yaml:"ca_file"`
	ServerName        string `yaml:"server_name"`
	ClientCertificate string `yaml:"client_certificate"`
	ClientCertFile    string `yaml:"client_cert_file"`
	ClientKeyFile     string `yaml:"client_key_file"`
}

type keyForm struct {
	Name    string      `yaml:"name"`
	KeyHash tenant.Hash `yaml:"key_hash"`
	Role    tenant.Role `yaml:"role"`
	Expires time.Time   `yaml:"expires"`
}

// tenantsReader reads one tenants.yaml.
type tenantsReader struct {
	*collector
	valueReader
	opt  Options
	root ast.Node
	now  time.Time

	warnings Errors
	policies map[string]policyFolder // those that were read

	ids    map[string]position      // where each id was declared first
	hosts  map[string]position      // and each host
	hashes map[tenant.Hash]position // and each key hash
}

// LoadTenants reads tenants.yaml and the catalogs that it names. If anything at all is wrong, the error, of type Errors,
// has everything that is, and the Tenants have no List, only the Files to watch for the repair: a broken file changes nothing.
func LoadTenants(path string, opt Options) (*Tenants, error) {
	c := &collector{file: path}
	root := load(path, c)
	var form tenantsFile
	c.decode(root, &form)
	c.require(root, "tenants")
	if n := len(form.Tenants); n > MaxTenants {
		c.add(place(find(root, "tenants")), "tenants: %d are declared: at most %d are allowed in a file", n, MaxTenants)
	}
	t := &Tenants{File: filepath.Base(path), Path: path, Files: []string{path}}
	if len(c.list) > 0 {
		return t, c.err()
	}
	r := &tenantsReader{
		collector: c, valueReader: valueReader{dir: filepath.Dir(path), env: opt.Env, files: []string{path}}, opt: opt, root: root, now: now(opt),
		policies: make(map[string]policyFolder),
		ids:      make(map[string]position), hosts: make(map[string]position), hashes: make(map[tenant.Hash]position),
	}
	list := r.tenants(form.Tenants)
	t.Files = r.files
	if len(c.list) > 0 {
		return t, c.err()
	}
	t.List, t.Warnings = list, r.warnings
	return t, nil
}

func now(opt Options) time.Time {
	if opt.Now == nil {
		return time.Now()
	}
	return opt.Now()
}

func (r *tenantsReader) tenants(forms []tenantForm) []Tenant {
	list := make([]Tenant, 0, len(forms))
	nodes, _ := find(r.root, "tenants").(*ast.SequenceNode)
	for i := range forms {
		if r.full() {
			break
		}
		list = append(list, r.tenant(nodes.Values[i], &forms[i]))
	}
	return list
}

func (r *tenantsReader) tenant(n ast.Node, f *tenantForm) Tenant {
	t := Tenant{Record: f.record(filepath.Base(r.file)), StateDeclared: f.State != "", at: place(find(n, "id"))}
	t.hosts, t.keys = make(map[string]position, len(f.Hosts)), make(map[tenant.Hash]position, len(f.APIKeys))
	found := len(r.list)
	r.identity(n, f)
	r.hostsOf(n, f, &t)
	r.tlsOf(n, f, &t)
	r.keysOf(n, f, &t)
	r.authenticatorsOf(n, f, &t)
	r.membersOf(n, f, &t)
	r.quotasOf(n, f)
	if f.SuspendReason != "" && f.State != string(tenant.StateSuspended) {
		r.add(place(find(n, "suspend_reason")), "suspend_reason is set but state is not: add state: suspended, or remove it")
	}
	if err := r.whole(t.Record).Validate(r.opt.BaseDomain); err != nil && len(r.list) == found {
		r.add(place(blamed(n, reason(err))), "%s", fileFields(reason(err)))
	}
	if f.CatalogFile != "" {
		r.catalog(n, f, &t)
	}
	if f.PolicyDir != "" {
		r.policy(n, f, &t)
	}
	return t
}

// whole returns rec as it would be if it were made now: what a bot's key must have, a plan adds.
func (r *tenantsReader) whole(rec *tenant.Record) *tenant.Record {
	c := *rec
	c.Keys = slices.Clone(rec.Keys)
	for i := range c.Keys {
		c.Keys[i].Created = r.now
	}
	return &c
}

// record returns what the form declares, with the defaults.
func (f *tenantForm) record(file string) *tenant.Record {
	rec := &tenant.Record{
		V:              tenant.RecordVersion,
		ID:             tenant.ID(f.ID),
		DisplayName:    f.DisplayName,
		Namespace:      f.Namespace,
		State:          tenant.State(or(f.State, string(tenant.StateActive))),
		SuspendReason:  f.SuspendReason,
		Mode:           tenant.Mode(or(f.Mode, string(tenant.ModeVirtual))),
		Hosts:          slices.Clone(f.Hosts),
		Quotas:         f.Quotas.Tenant(),
		AllowedOrigins: slices.Clone(f.AllowedOrigins),
		Source:         tenant.SourceFile,
		File:           file,
	}
	if d := f.Dedicated; d != nil {
		rec.Dedicated = &tenant.Dedicated{Upstream: d.Upstream, Auth: tenant.UpstreamAuth(or(d.Auth, string(tenant.AuthUpstream))), Identity: d.Identity}
	}
	if s := f.Sandboxes; s != nil {
		rec.Sandboxes = &tenant.Sandboxes{
			PodSecurity: tenant.PodSecurity(s.PodSecurity), Network: tenant.NetworkMode(s.Network), Adopted: s.Adopted,
			Images: listed(s.Images), RuntimeClasses: listed(s.RuntimeClasses), Egress: listed(s.Egress),
		}
	}
	f.addKeys(rec)
	return rec
}

func (r *tenantsReader) identity(n ast.Node, f *tenantForm) {
	at := place(find(n, "id"))
	if f.ID == "" {
		r.add(at, "id is missing: each tenant has one, 1 to %d of a-z, 0-9 and -", tenant.MaxIDLen)
		return
	}
	if first, ok := r.ids[f.ID]; ok {
		r.add(at, "tenant id %q is declared twice: the first is in line %d", clip(f.ID), first.Line)
		return
	}
	r.ids[f.ID] = at
}

func (r *tenantsReader) hostsOf(n ast.Node, f *tenantForm, t *Tenant) {
	for i, h := range f.Hosts {
		at := place(find(n, fmt.Sprintf("hosts[%d]", i)))
		t.hosts[h] = at
		if err := tenant.CheckHost(h); err != nil {
			r.add(at, "%s", reason(err))
			continue
		}
		if slices.Contains(r.opt.Reserved, h) {
			r.add(at, "host %q is the platform's own: use another", h)
			continue
		}
		if first, ok := r.hosts[h]; ok {
			r.add(at, "host %q is declared twice: the first is in line %d", h, first.Line)
			continue
		}
		r.hosts[h] = at
	}
}

func (r *tenantsReader) quotasOf(n ast.Node, f *tenantForm) {
	for _, name := range above(f.Quotas.Tenant(), r.opt.Ceilings) {
		r.add(place(find(n, "quotas."+name)), "quotas.%s is above the platform's ceiling (quotas.ceilings in polygate.yaml)", name)
	}
}

// blamed returns the node that a message of the routing record's own validation is about: they begin with the field.
func blamed(n ast.Node, msg string) ast.Node {
	if strings.HasPrefix(msg, "mode is ") {
		return find(n, "mode")
	}
	path, rest, _ := strings.Cut(msg, " ")
	if path != "" && path[0] >= '0' && path[0] <= '9' { // 17 hosts: at most 16 are allowed
		path, _, _ = strings.Cut(strings.TrimPrefix(rest, "API "), " ")
		path = strings.TrimSuffix(path, ":")
	}
	switch path {
	case "tenant":
		path = "id"
	case "host":
		path = "hosts"
	case "keys":
		path = "api_keys"
	case "allowed":
		path = "allowed_origins"
	}
	return find(n, path)
}

// fileFields names fields in a message of the routing record's validation as they are written in a file.
func fileFields(msg string) string {
	return strings.NewReplacer("dedicated.ca, server_name and client are", "dedicated.ca_file, server_name and the client's certificate are").Replace(msg)
}
