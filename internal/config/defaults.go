package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Default returns the configuration of an empty file. Only base_domain has no default. The defaults that depend on other
// fields (shared_hosts, kek_file, admin.token_file, audit.file, replica.name) are empty in it; LoadPlatform fills them in.
func Default() *Platform {
	return &Platform{
		DataDir:   ".polygate",
		Listen:    Listen{Public: ":8443", Plain: ":8080", Admin: "127.0.0.1:9443", Telemetry: "127.0.0.1:9090"},
		Etcd:      Etcd{Embedded: EtcdEmbedded{QuotaBytes: 2 << 30, CompactAfter: 5 * time.Minute}, Prefix: "polygate/", Reserve: 20},
		Replica:   Replica{TTL: 5 * time.Second, Capacity: 100},
		Placement: Placement{Overload: 1.25, Moves: 5, Interval: 10 * time.Second, Wait: 2 * time.Second},
		Drain:     Drain{Streams: 5 * time.Second, Timeout: 25 * time.Second},
		Limits: Limits{
			MaxConnections:          10_000,
			MaxRequests:             10_000,
			MaxStreams:              10_000,
			MaxStreamsPerConnection: 250,
			MaxHeaderBytes:          64 << 10,
			MaxHeaders:              100,
			MaxURIBytes:             8 << 10,
			MaxQueryParameters:      100,
			MaxBodyBytes:            64 << 20,
			MCPMaxBodyBytes:         4 << 20,
			MCPMaxTenantBytes:       64 << 20,
			MCPMaxTotalBytes:        1 << 30,
			HeaderTimeout:           10 * time.Second,
			BodyIdleTimeout:         30 * time.Second,
			WriteIdleTimeout:        60 * time.Second,
			MaxCookies:              180,
			IdleTimeout:             60 * time.Second,
			UpstreamHeaderTimeout:   5 * time.Minute,
			DialTimeout:             5 * time.Second,
			ShutdownGrace:           10 * time.Second,
			IdleGatewayAfter:        10 * time.Minute,
			ResidentCertificates:    10_000,
			GarbageHeadroom:         32 << 20,
		},
		Quotas: TenantQuotas{Quotas: Quotas{MaxServers: 50, MaxConcurrentRequests: 200, RequestsPerSecond: 100, Burst: 200, MaxStreams: 100, MaxStoredBytes: 16 << 20,
			MaxSandboxes: 20, SandboxCPU: 8000, SandboxMemory: 16 << 30, SandboxStorage: 50 << 30, SandboxLifetime: 24 * time.Hour}},
		Sandboxes: Sandboxes{
			Driver: DriverNone, Defaults: SandboxSize{CPU: 500, Memory: 512 << 20, Storage: 1 << 30},
			Process:      SandboxProcess{Pids: 512},
			StartTimeout: 10 * time.Minute, MaxSessions: 16, MaxExecOutput: 1 << 20,
			Kube: SandboxKube{
				Timeout: 10 * time.Second, QPS: 50, Burst: 100, NamespacePrefix: "polygate-", Instance: "default", AgentSandbox: "off",
				DNS: KubeDNS{KubePeers{Namespace: "kube-system", PodLabels: map[string]string{"k8s-app": "kube-dns"}}, []int{53}},
			},
		},
		Authn:  Authn{TokenCacheBytes: 64 << 20},
		Policy: Policy{EvalTimeout: 50 * time.Millisecond, MaxBundleBytes: 1 << 20, MaxModules: 200, MaxConcurrent: 8},
		TLS:    TLS{MinVersion: "1.2", TicketRotation: 24 * time.Hour},
		Passthrough: Passthrough{
			MaxConnections: 10_000, MaxConnectionsPerTenant: 1000, DialTimeout: 5 * time.Second, IdleTimeout: time.Hour,
		},
		Certificates: defaultCertificates(),
		Metrics:      Metrics{MaxTenants: 1000},
		Audit: Audit{
			Buffer: 8192, Interval: 200 * time.Millisecond, RotateBytes: 64 << 20, RotateAfter: 24 * time.Hour,
			Retain: 9600 * time.Hour, CheckpointEvery: 10 * time.Minute, OTLP: AuditOTLP{Timeout: 5 * time.Second, QueueBytes: 8 << 20},
		},
		Tracing: Tracing{Ratio: 0.01, Timeout: 5 * time.Second},
		Log:     Log{Level: "info", Format: "json"},
	}
}

// letsEncrypt is the directory of the ACME server that most people mean.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

func defaultCertificates() Certificates {
	return Certificates{
		LeafLife: 7 * 24 * time.Hour, Source: string(tenant.SourceLocalCA), OCSP: true,
		ACME: ACME{
			Directory: letsEncrypt, Challenges: []string{ChallengeTLSALPN, ChallengeHTTP},
			OrdersPerMinute: 60, OrdersPerTenantPerHour: 30, MaxConcurrent: 16,
			DNS: ACMEDNS{PropagationTimeout: 2 * time.Minute, RFC2136: RFC2136{KeyAlgorithm: "hmac-sha256"}},
		},
	}
}

// LoadPlatform reads polygate.yaml, fills in the defaults and validates. The error is of type Errors.
func LoadPlatform(path string) (*Platform, error) {
	c := &collector{file: path}
	p := Default()
	root := load(path, c)
	c.decode(root, p)
	if len(c.list) > 0 {
		return nil, c.err()
	}
	p.fill(filepath.Dir(path))
	if c.place(root, p.problems()); len(c.list) > 0 {
		return nil, c.err()
	}
	for i := range p.Certificates.Files {
		p.Certificates.Files[i].at = spot{path, place(find(root, fmt.Sprintf("certificates.files[%d]", i)))}
	}
	w := &collector{file: path}
	w.place(root, p.doubts())
	p.warnings = w.list
	return p, nil
}

// fill sets the defaults that depend on other fields, and makes tenants_file relative to the file's own folder.
func (p *Platform) fill(dir string) {
	if len(p.SharedHosts) == 0 && p.BaseDomain != "" {
		p.SharedHosts = []string{p.BaseDomain}
	}
	p.KEKFile = or(p.KEKFile, filepath.Join(p.DataDir, "kek"))
	p.Admin.TokenFile = or(p.Admin.TokenFile, filepath.Join(p.DataDir, "admin-token"))
	p.Audit.File = or(p.Audit.File, filepath.Join(p.DataDir, "audit.jsonl"))
	if p.TenantsFile != "" && !filepath.IsAbs(p.TenantsFile) {
		p.TenantsFile = filepath.Join(dir, p.TenantsFile)
	}
	if p.Replica.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "replica"
		}
		p.Replica.Name = strings.ToLower(host)
	}
	p.Sandboxes.Process.Dir = or(p.Sandboxes.Process.Dir, filepath.Join(p.DataDir, "sandboxes"))
	p.fillPeers()
}

// NoPeer is the listen.peer of a replica that no other can reach.
const NoPeer = "none"

// fillPeers opens the peers' listener where there may be peers.
func (p *Platform) fillPeers() {
	if p.Listen.Peer == "" && (len(p.Etcd.Endpoints) > 0 || len(p.Etcd.Embedded.Cluster.Members) > 0) {
		p.Listen.Peer = ":7443"
	}
	if p.Listen.Peer == NoPeer {
		p.Listen.Peer = ""
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
