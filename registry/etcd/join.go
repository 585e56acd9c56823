package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/registry"
)

// How a member without data begins. etcd itself leaves it to whoever starts it to say whether the cluster is new, and a
// member that lost its data and begins as if it were new has forgotten what it voted for: data that was acknowledged can
// be lost by it. So a cluster begins as a new one only when all of its members have said that they have no data; until
// its server starts, a member answers that at its peer address. As soon as one of the others has data, its list of
// members decides.
const (
	blankPath    = "/polygate/blank" // of a member without data: 200 and its name
	joinEvery    = 200 * time.Millisecond
	joinSayEvery = 10 * time.Second
	probeTimeout = 2 * time.Second
	maxMembers   = 64 << 10 // bytes of a list of members
)

// knownMember is one member in what a running member says of the cluster.
type knownMember struct {
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"` // each member publishes its own when it runs for the first time
}

// verdict is how a member without data is to begin.
type verdict uint8

const (
	wait     verdict = iota // it cannot be said yet
	fresh                   // as one of a new cluster
	added                   // as one that was added to a cluster that runs
	lost                    // not at all: it had data once
	stranger                // not at all: the cluster does not know it
)

// judge decides by a running member's list how the member with a peer URL begins. In a cluster that is just beginning, the
// members have names and have not published anything yet; one that was added later has no name.
func judge(list []knownMember, own string) verdict {
	for _, m := range list {
		if !slices.Contains(m.PeerURLs, own) {
			continue
		}
		switch {
		case len(m.ClientURLs) > 0:
			return lost
		case m.Name == "":
			return added
		}
		return fresh
	}
	return stranger
}

// refusal says what to do where a member must not begin.
func (c *ClusterConfig) refusal(v verdict, dir string) error {
	self := c.self()
	if v == lost {
		return fmt.Errorf("etcd member %s has no data in %s, but the cluster has known it with some: restore the folder, or, at another replica, run `polygate etcd member remove %s` and `polygate etcd member add %s`, and then start this one again", c.Name, dir, c.Name, self.Address)
	}
	return fmt.Errorf("the etcd cluster that runs at the other members' addresses has no member at %s: run `polygate etcd member add %s` at another replica, or correct etcd.embedded.cluster.members", self.Address, self.Address)
}

// hasData says whether a data folder holds a member's log.
func hasData(dir string) bool {
	found, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	return len(found) > 0
}

// markName is the file that says of which member the data in a folder is.
const markName = "cluster-member"

// mark notes that the data is that of a member of a cluster.
func (c *ClusterConfig) mark(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, markName), []byte(c.Name+"\n"), 0o600); err != nil {
		return fmt.Errorf("the etcd data folder %s is not writable: %w", dir, err)
	}
	return nil
}

// checkKind refuses data that was made by a server of the other kind: a lone one would wait for a majority without end,
// and a member of a cluster would serve what the others do not have.
func checkKind(dir string, c *ClusterConfig) error {
	if !hasData(dir) {
		return nil
	}
	was, err := os.ReadFile(filepath.Join(dir, markName))
	name := strings.TrimSpace(string(was))
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the etcd data folder %s cannot be read: %w", dir, err)
	case c == nil && err == nil:
		return fmt.Errorf("the etcd data in %s is of member %s of a cluster: start with --cluster", dir, name)
	case c != nil && err != nil:
		return fmt.Errorf("the etcd data in %s is of a single server, which does not become a cluster by itself: back it up without --cluster (polygate backup), move the folder away, start the cluster, and restore the backup into it", dir)
	case c != nil && name != c.Name:
		return fmt.Errorf("the etcd data in %s is of member %s, not of %s: give each replica its own folder and name", dir, name, c.Name)
	}
	return nil
}

// probe asks other members, over their peer addresses.
type probe struct {
	client *http.Client
	cfg    *ClusterConfig
}

func newProbe(c *ClusterConfig) (*probe, error) {
	conf, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	return &probe{&http.Client{Transport: tr, Timeout: probeTimeout}, c}, nil
}

// tlsConfig returns what a member offers and demands, as client and as server; nil without TLS.
func (c *ClusterConfig) tlsConfig() (*tls.Config, error) {
	if c.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("etcd cluster: ca: %w", err)
	}
	pool, err := poolOf(pem)
	if err != nil {
		return nil, fmt.Errorf("etcd cluster: ca: no certificate in %s", c.CA)
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("etcd cluster: cert and key: %w", err)
	}
	return &tls.Config{
		RootCAs: pool, ClientCAs: pool, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}

// get returns the body that a member answers with.
func (p *probe) get(ctx context.Context, m ClusterMember, path string) ([]byte, error) {
	u := p.cfg.url(m.Address)
	u.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMembers))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return body, err
}

// ask returns a member's list of the cluster, or that it has no data either.
func (p *probe) ask(ctx context.Context, m ClusterMember) (list []knownMember, blank bool, err error) {
	body, err := p.get(ctx, m, "/members")
	if err == nil {
		if err = json.Unmarshal(body, &list); err == nil && len(list) > 0 {
			return list, false, nil
		}
	}
	name, blankErr := p.get(ctx, m, blankPath)
	if blankErr != nil {
		return nil, false, errors.Join(err, blankErr)
	}
	if string(name) != m.Name {
		return nil, false, fmt.Errorf("at %s is member %q, not %s", m.Address, name, m.Name)
	}
	return nil, true, nil
}

// members says of each member how it is.
func (p *probe) members(ctx context.Context, all []ClusterMember, leads func(name string) bool) []registry.Member {
	out := make([]registry.Member, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() {
			out[i] = registry.Member{Name: m.Name, Address: m.Address}
			body, err := p.get(ctx, m, "/version")
			var v struct {
				Server string `json:"etcdserver"`
			}
			if err == nil {
				err = json.Unmarshal(body, &v)
			}
			if err != nil {
				out[i].Error = "it does not answer: " + err.Error()
				return
			}
			out[i].Version, out[i].Healthy, out[i].Leader = v.Server, true, leads(m.Name)
		})
	}
	wg.Wait()
	return out
}

// join decides how a member without data begins: existing says that it was added to a cluster that runs.
func (c *ClusterConfig) join(ctx context.Context, dir string, p *probe, log *slog.Logger) (existing bool, err error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	stop, err := c.serveBlank()
	if err != nil {
		return false, err
	}
	defer stop()
	blank := make(map[string]bool)
	said := time.Now()
	for {
		v, away := c.look(ctx, p, blank)
		switch v {
		case fresh, added:
			return v == added, nil
		case lost, stranger:
			return false, c.refusal(v, dir)
		}
		if time.Since(said) > joinSayEvery {
			said = time.Now()
			log.Info("etcd: waiting for the other members of the cluster", "away", strings.Join(away, "; "))
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("etcd member %s has no data, and a new cluster begins only when all members are there: start the others too (%s)", c.Name, strings.Join(away, "; "))
		case <-time.After(joinEvery):
		}
	}
}

// look asks each of the others once. blank remembers who has said that it has no data: it may begin before we do.
func (c *ClusterConfig) look(ctx context.Context, p *probe, blank map[string]bool) (verdict, []string) {
	var away []string
	own := c.url(c.self().Address)
	for _, m := range c.others() {
		list, none, err := p.ask(ctx, m)
		switch {
		case err != nil && !blank[m.Name]:
			away = append(away, m.Name+" at "+m.Address+": "+lastWords(err))
		case none:
			blank[m.Name] = true
		case len(list) > 0:
			return judge(list, own.String()), nil
		}
	}
	if len(away) == 0 && len(blank) == len(c.Members)-1 {
		return fresh, nil
	}
	return wait, away
}

// lastWords makes one short line of an error.
func lastWords(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if _, after, ok := strings.Cut(line, "\": "); ok { // after the URL, which the caller says better
		return after
	}
	return line
}

// serveBlank tells the other members, at this one's peer address, that it has no data. stop frees the address.
func (c *ClusterConfig) serveBlank() (stop func(), err error) {
	conf, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", c.listen())
	if err != nil {
		return nil, fmt.Errorf("etcd member %s cannot listen at %s: %w", c.Name, c.listen(), err)
	}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+blankPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.Name) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: probeTimeout, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	return func() {
		_ = srv.Close()
		<-done
	}, nil
}
