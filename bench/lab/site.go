package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/scenario"
)

// domain is the base domain of a lab's tenants. Nobody resolves it: clients dial addresses and name hosts.
const domain = "bench.localhost"

// site is what all subjects of a variant have in common: tenants, certificates, the upstream, who signs tokens.
type site struct {
	peer.Site
	upstream *backend.Process
	gone     func() // removes its files
	issuer   *credential.Issuer
	tokens   credential.Source // nil = none
}

// layOut starts the upstream and makes the tenants of a scenario.
func (l *Lab) layOut(ctx context.Context, sc *scenario.Scenario) (_ *site, err error) {
	auth, err := authOf(sc)
	if err != nil {
		return nil, err
	}
	dir, err := l.folder("site")
	if err != nil {
		return nil, err
	}
	seed, err := newSeed()
	if err != nil {
		return nil, err
	}
	up, err := backend.Launch(ctx, l.cfg.Self, backend.Config{
		Seed: seed, AnswerBytes: sc.Site.AnswerBytes, TLS: &backend.TLS{CertDir: filepath.Join(dir, "certs")}, Control: "127.0.0.1:0",
	}, l.split.others)
	if err != nil {
		return nil, err
	}
	st := &site{upstream: up, gone: func() { l.clear(dir) }}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	laid, err := peer.Lay(dir, domain, sc.Site.Tenants, up.Ports.Plain, seed)
	if err != nil {
		return nil, fmt.Errorf("make the site: %w", err)
	}
	st.Site = *laid
	st.Auth, st.Cores, st.Upstream = auth, l.split.subject, peer.Upstream{H2C: speaks(sc, scenario.GRPC)}
	if auth == peer.JWTAuth {
		err = st.startIssuer(filepath.Join(dir, "issuer"), sc)
	}
	return st, err
}

func (st *site) close() {
	if st.issuer != nil {
		_ = st.issuer.Close()
	}
	_ = st.upstream.Stop()
	st.gone()
}

// startIssuer starts who signs tokens. Minted ones and fetched ones are alike to a subject.
func (st *site) startIssuer(dir string, sc *scenario.Scenario) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	is, err := credential.StartIssuer(dir, "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the issuer of tokens: %w", err)
	}
	st.issuer = is
	st.JWT = peer.JWT{Issuer: is.URL(), CAFile: is.CAFile(), Key: is.Key(), KeyFile: is.KeyFile()}
	if shows(sc, scenario.OIDC) {
		st.tokens, err = st.fetched()
		return err
	}
	st.tokens, err = is.Minter(func(n int) []string { return []string{st.Tenants[n].Name} }, nil)
	return err
}

func (st *site) fetched() (credential.Source, error) {
	roots, err := ReadRoots(st.issuer.CAFile())
	if err != nil {
		return nil, err
	}
	id, secret := st.issuer.Client()
	return credential.NewOIDC(credential.OIDCConfig{
		Issuer: st.issuer.URL(), ClientID: id, ClientSecret: secret, Roots: roots,
		Audience: func(n int) string { return st.Tenants[n].Name },
	})
}

// authOf says what the subject has to check for the loads of a scenario. It checks one thing for all tenants.
func authOf(sc *scenario.Scenario) (peer.Auth, error) {
	var auth peer.Auth
	for _, ld := range sc.Loads {
		a := peer.NoAuth
		switch ld.Credential {
		case scenario.Key:
			a = peer.KeyAuth
		case scenario.JWT, scenario.OIDC:
			a = peer.JWTAuth
		}
		if auth != "" && a != auth {
			return "", fmt.Errorf("scenario %s: the loads show credentials of different kinds, and a lab's site checks one: give all the same credential", sc.Name)
		}
		auth = a
	}
	if auth == "" {
		auth = peer.NoAuth
	}
	return auth, nil
}

func speaks(sc *scenario.Scenario, p scenario.Protocol) bool {
	for _, ld := range sc.Loads {
		if ld.Protocol == p {
			return true
		}
	}
	return false
}

func shows(sc *scenario.Scenario, c scenario.Credential) bool {
	for _, ld := range sc.Loads {
		if ld.Credential == c {
			return true
		}
	}
	return false
}

// targets are the site's tenants as a client sees them at a subject.
func (st *site) targets(addr func(int) string) []client.Tenant {
	out := make([]client.Tenant, len(st.Tenants))
	for i, t := range st.Tenants {
		out[i] = client.Tenant{Name: t.Name, Host: t.Host, Addr: addr(i), Canary: t.Canary, Key: t.Key}
	}
	return out
}

func newSeed() (string, error) {
	var b [16]byte
	_, err := rand.Read(b[:])
	return hex.EncodeToString(b[:]), err
}
