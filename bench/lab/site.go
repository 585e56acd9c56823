package lab

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/scenario"
)

// domain is the base domain of a lab's tenants. Nobody resolves it: clients dial addresses and name hosts.
const domain = "bench.localhost"

// upstreamStart bounds how long the upstream may take to listen.
const upstreamStart = 20 * time.Second

// site is what all subjects of a variant have in common: tenants, certificates, the upstream, who signs tokens.
type site struct {
	peer.Site
	upstream *upstream
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
	up, err := l.startUpstream(ctx, filepath.Join(dir, "certs"), seed, sc.Site.AnswerBytes)
	if err != nil {
		return nil, err
	}
	st := &site{upstream: up}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	laid, err := peer.Lay(dir, domain, sc.Site.Tenants, up.ports.Plain, seed)
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
	st.upstream.stop()
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
	roots, err := readRoots(st.issuer.CAFile())
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

// upstream is the process behind all subjects.
type upstream struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ports backend.Ports
}

// startUpstream starts the upstream as a process of its own, so that its cost is nobody else's, and reads where it listens.
func (l *Lab) startUpstream(ctx context.Context, certs, seed string, answer int) (*upstream, error) {
	if err := os.MkdirAll(certs, 0o700); err != nil {
		return nil, err
	}
	cmd := backend.Command(l.cfg.Self, backend.Config{
		Seed: seed, AnswerBytes: answer, TLS: &backend.TLS{CertDir: certs}, Control: "127.0.0.1:0",
	})
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := proc.Start(cmd, l.split.others); err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	u := &upstream{cmd: cmd, stdin: in}
	if err := u.ready(ctx, out); err != nil {
		u.stop()
		return nil, err
	}
	return u, nil
}

// ready reads the line that the upstream prints when it listens.
func (u *upstream) ready(ctx context.Context, out io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, upstreamStart)
	defer cancel()
	read := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &u.ports)
		}
		read <- err
	}()
	select {
	case err := <-read:
		if err != nil {
			return fmt.Errorf("the upstream ended before it listened: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the upstream does not say where it listens: %w", ctx.Err())
	}
}

// stop ends the upstream: it goes when nothing more can come on its standard input.
func (u *upstream) stop() {
	_ = u.stdin.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = u.cmd.Process.Kill() })
	_ = u.cmd.Wait()
	timer.Stop()
}

// stall makes all its answers wait.
func (u *upstream) stall(ctx context.Context, d time.Duration) error {
	if u.ports.Control == "" {
		return errors.New("the upstream cannot be told to stall: it has no control listener")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+u.ports.Control+"/stall?for="+d.String(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("stall the upstream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("stall the upstream: %s", resp.Status)
	}
	return nil
}
