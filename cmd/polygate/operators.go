package main

import (
	"fmt"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// openOperators says who may use the operators' listener beside the holder of the operator token: the holder of the
// auditor token, and users of the issuers that the configuration names.
func (d *daemon) openOperators() (*admin.Operators, error) {
	cfg := admin.OperatorsConfig{Verifier: d.authn}
	if path := d.cfg.Admin.AuditorTokenFile; path != "" {
		token, err := loadToken(path)
		if err != nil {
			return nil, fmt.Errorf("auditor token: %w", err)
		}
		hash := tenant.HashKey(token)
		if hash == d.token {
			return nil, fmt.Errorf("auditor token: %s holds the operator token: remove the file to have another one made", path)
		}
		cfg.Tokens = func() []admin.Token {
			return []admin.Token{{Name: "auditor-token", Kind: tenant.KindAuditor, Hash: hash}}
		}
	}
	for _, c := range d.cfg.Admin.OIDC {
		is, err := operatorIssuer(c)
		if err != nil {
			return nil, err
		}
		cfg.Issuers = append(cfg.Issuers, is)
	}
	return admin.NewOperators(cfg)
}

func operatorIssuer(c config.OperatorIssuer) (admin.Issuer, error) {
	o, err := c.Tenant()
	if err != nil {
		return admin.Issuer{}, err
	}
	if o.CA != "" {
		if err := authn.ParsePool(o.CA); err != nil {
			return admin.Issuer{}, fmt.Errorf("admin.oidc %s: ca_file %s: %w", c.Name, c.CAFile, err)
		}
	}
	return admin.Issuer{Name: c.Name, OIDC: o, Rules: admin.OperatorRules{Operators: admin.Match(c.Operators), Auditors: admin.Match(c.Auditors)}}, nil
}
