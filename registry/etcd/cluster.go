package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/polygate/polygate/registry"
)

// ClusterConfig makes the server one member of a cluster, of which each replica runs one.
type ClusterConfig struct {
	Name    string          // of this member; one of Members
	Listen  string          // host:port for the other members; "" = the port of this member's address, on all addresses
	Members []ClusterMember // all of them, this one included; 3 or 5
	// CA, Cert and Key are PEM files: the members speak mutual TLS. The CA should be of its own, since whoever has a
	// certificate of it can be a member, and so read and change everything. Empty = plain, which only members that are all
	// on loopback addresses may be.
	CA, Cert, Key string
	// JoinTimeout is how long a start waits for the other members; 0 = DefaultJoinTimeout, below = until its context ends.
	JoinTimeout time.Duration
}

// bounded bounds the wait for the other members.
func (c *ClusterConfig) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case c.JoinTimeout < 0:
		return context.WithCancel(ctx)
	case c.JoinTimeout == 0:
		return context.WithTimeout(ctx, DefaultJoinTimeout)
	}
	return context.WithTimeout(ctx, c.JoinTimeout)
}

// ClusterMember is one member of a cluster.
type ClusterMember struct {
	Name    string
	Address string // host:port at which the others reach it
}

// DefaultJoinTimeout is how long a member that starts waits for others: operators start them one after the other.
const DefaultJoinTimeout = 2 * time.Minute

// Ticks of a cluster: etcd's own, for members on a network. The shortest lease is one and a half elections, 2 s.
const (
	clusterTick     = 100
	clusterElection = 1000
)

// ClusterLeaseMin is the shortest time to live of a lease in an embedded cluster: one and a half elections in whole seconds.
const ClusterLeaseMin = 2 * time.Second

func (c *ClusterConfig) check() error {
	i := slices.IndexFunc(c.Members, func(m ClusterMember) bool { return m.Name == c.Name })
	if i < 0 {
		return fmt.Errorf("etcd: member %q is none of the cluster's: %s", c.Name, names(c.Members))
	}
	for _, m := range c.Members {
		host, _, err := net.SplitHostPort(m.Address)
		if err != nil || host == "" {
			return fmt.Errorf("etcd: the address %q of member %s is not host:port", m.Address, m.Name)
		}
		if ip := net.ParseIP(host); c.CA == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("etcd: member %s is not on this machine, and the cluster has no ca, cert and key: whoever reached it could read and change everything", m.Name)
		}
	}
	if (c.CA == "") != (c.Cert == "") || (c.Cert == "") != (c.Key == "") {
		return errors.New("etcd: ca, cert and key of a cluster belong together: set all or none")
	}
	return nil
}

func names(ms []ClusterMember) string {
	out := make([]string, 0, len(ms))
	for _, m := range ms {
		out = append(out, m.Name)
	}
	return strings.Join(out, ", ")
}

// self returns this member.
func (c *ClusterConfig) self() ClusterMember {
	for _, m := range c.Members {
		if m.Name == c.Name {
			return m
		}
	}
	return ClusterMember{}
}

// others returns all members but this one.
func (c *ClusterConfig) others() []ClusterMember {
	return slices.DeleteFunc(slices.Clone(c.Members), func(m ClusterMember) bool { return m.Name == c.Name })
}

func (c *ClusterConfig) url(address string) url.URL {
	if c.CA != "" {
		return url.URL{Scheme: "https", Host: address}
	}
	return url.URL{Scheme: "http", Host: address}
}

// listen returns host:port to listen on.
func (c *ClusterConfig) listen() string {
	address := c.Listen
	if address == "" && c.CA == "" { // without TLS, on loopback alone
		return c.self().Address
	}
	if address == "" {
		address = c.self().Address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "" && c.Listen != "" {
		return address
	}
	if own, _, _ := net.SplitHostPort(c.self().Address); strings.Contains(own, ":") {
		return net.JoinHostPort("::", port)
	}
	return net.JoinHostPort("0.0.0.0", port) // etcd takes no address without a host
}

// apply writes the cluster into etcd's configuration.
func (c *ClusterConfig) apply(e *embed.Config, existing bool) {
	initial := make([]string, 0, len(c.Members))
	for _, m := range c.Members {
		u := c.url(m.Address)
		initial = append(initial, m.Name+"="+u.String())
	}
	e.Name, e.InitialCluster, e.InitialClusterToken = c.Name, strings.Join(initial, ","), "polygate"
	e.ClusterState = embed.ClusterStateFlagNew
	if existing {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	listen, own := c.url(c.listen()), c.url(c.self().Address)
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{listen}, []url.URL{own}
	// Nothing serves clients there. Members tell by it whether one of them has ever run, see join.
	e.AdvertiseClientUrls = append(e.AdvertiseClientUrls, own)
	e.TickMs, e.ElectionMs = clusterTick, clusterElection
	if c.CA != "" {
		t := &e.PeerTLSInfo
		t.CertFile, t.KeyFile, t.TrustedCAFile, t.ClientCertAuth = c.Cert, c.Key, c.CA, true
	}
	e.SnapshotCount, e.SnapshotCatchUpEntries = 10_000, 5_000
}

// leads says whether the server knows a leader. Requests of its own process do not pass through what ends a stream
// where there is none.
func (e *Embedded) leads() bool { return e.etcd.Server.Leader() != 0 }

// fellows tells of the other members.
func (e *Embedded) fellows(ctx context.Context) []registry.Member {
	return e.probe.members(ctx, e.cluster.others(), func(name string) bool {
		for _, m := range e.etcd.Server.Cluster().Members() {
			if m.Name == name {
				return m.ID == e.etcd.Server.Leader()
			}
		}
		return false
	})
}

// MemberList returns the members of the cluster as etcd knows them. One that was added and has not begun yet has no name.
func (e *Embedded) MemberList() []ClusterMember {
	var out []ClusterMember
	for _, m := range e.etcd.Server.Cluster().Members() {
		addr := ""
		if len(m.PeerURLs) > 0 {
			if u, err := url.Parse(m.PeerURLs[0]); err == nil {
				addr = u.Host
			}
		}
		out = append(out, ClusterMember{Name: m.Name, Address: addr})
	}
	slices.SortFunc(out, func(a, b ClusterMember) int { return strings.Compare(a.Address, b.Address) })
	return out
}

// MemberRemove takes a member out of the cluster, by name or address. Do this before one that lost its data comes back.
func (e *Embedded) MemberRemove(ctx context.Context, which string) error {
	b, err := e.Backend("")
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	list, err := b.client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("list the members of etcd: %w", classify(err))
	}
	for _, m := range list.Members {
		if m.Name == which || slices.ContainsFunc(m.PeerURLs, func(u string) bool { return strings.HasSuffix(u, "://"+which) }) {
			if _, err := b.client.MemberRemove(ctx, m.ID); err != nil {
				return fmt.Errorf("remove member %s of etcd: %w", which, classify(err))
			}
			return nil
		}
	}
	return fmt.Errorf("etcd has no member %s: %s", which, names(e.MemberList()))
}

// MemberAdd takes a member into the cluster, which is then to be started with an empty folder.
func (e *Embedded) MemberAdd(ctx context.Context, address string) error {
	if e.cluster == nil {
		return errors.New("the embedded etcd is no cluster: it was started without --cluster")
	}
	b, err := e.Backend("")
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	u := e.cluster.url(address)
	if _, err := b.client.MemberAdd(ctx, []string{u.String()}); err != nil {
		return fmt.Errorf("add a member at %s to etcd: %w", address, classify(err))
	}
	return nil
}
