package config

import "time"

// Admin is the operators' listener, and who they are.
type Admin struct {
	TokenFile        string           `yaml:"token_file"`         // holds the operators' bearer token, mode 0600, made when missing; default <data_dir>/admin-token
	AuditorTokenFile string           `yaml:"auditor_token_file"` // holds a token that may look and change nothing, mode 0600, made when missing; default none = no such token
	Hosts            []string         `yaml:"hosts"`              // further host names of the listener's certificate; localhost, 127.0.0.1 and ::1 are in it; default none
	OIDC             []OperatorIssuer `yaml:"oidc"`               // OpenID Connect issuers of operators' tokens
}

// OperatorIssuer is an OpenID Connect issuer, and which of its users are operators. Everybody else it knows is nobody here.
type OperatorIssuer struct {
	Name           string            `yaml:"name"`            // [a-z0-9-], unique, part of each operator's identity; required
	Issuer         string            `yaml:"issuer"`          // https URL, compared byte for byte with iss; required
	Audiences      []string          `yaml:"audiences"`       // a token's aud holds one of them; required
	ClientIDs      []string          `yaml:"client_ids"`      // a token's azp or client_id is one of them; default any
	Algorithms     []string          `yaml:"algorithms"`      // of signatures, asymmetric ones alone; default [RS256, ES256, EdDSA]
	Claims         OperatorClaims    `yaml:"claims"`          // where a token describes its user
	CAFile         string            `yaml:"ca_file"`         // PEM roots for the issuer; default the system's
	RequiredClaims map[string]string `yaml:"required_claims"` // dotted path: value that the claim has, or holds in a list; default none
	Operators      Who               `yaml:"operators"`       // may do everything here
	Auditors       Who               `yaml:"auditors"`        // may look and change nothing
}

// OperatorClaims says where in a token its user is described. Paths are dotted; `\.` is a dot in a name.
type OperatorClaims struct {
	Subject  string `yaml:"subject"`  // default sub
	Username string `yaml:"username"` // for people; default preferred_username, else the subject
	Groups   string `yaml:"groups"`   // default groups
}

// Who names users and groups of one issuer, byte for byte.
type Who struct {
	Users  []string `yaml:"users"`  // subjects, not user names, which their owners may be able to change; default none
	Groups []string `yaml:"groups"` // default none
}

// Authn tunes how callers of all tenants are authenticated. Who they may be, each tenant's authenticators say.
type Authn struct {
	TokenCacheBytes Size            `yaml:"token_cache_bytes"` // memory for tokens whose signature was verified, of all tenants; 1MiB to 64GiB; default 64MiB
	Kubernetes      AuthnKubernetes `yaml:"kubernetes"`
}

// AuthnKubernetes names the API server that reviews tokens for tenants with a kubernetes authenticator. Without one, those
// authenticators let nobody in.
type AuthnKubernetes struct {
	Kubeconfig string `yaml:"kubeconfig"` // file; default none
	InCluster  bool   `yaml:"in_cluster"` // use the service account of this pod; default false
}

// Policy bounds what a tenant's own policy may cost. A decision that runs into a bound is a refusal.
type Policy struct {
	EvalTimeout    time.Duration `yaml:"eval_timeout"`     // of one decision, waiting for its turn included; 1ms to 1s; default 50ms
	MaxBundleBytes Size          `yaml:"max_bundle_bytes"` // of one tenant's modules and data together, and of its data alone; 1KiB to 64MiB; default 1MiB
	MaxModules     int           `yaml:"max_modules"`      // of one tenant, tests included; 1 to 10000; default 200
	MaxConcurrent  int           `yaml:"max_concurrent"`   // decisions of one tenant at a time; 1 to 1000; default 8
}
