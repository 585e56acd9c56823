package kube

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/tenant"
)

// reaches says whether the policies let a sandbox reach an address that is no pod, as a network plugin would: what any of them allows.
func reaches(policies []*networkingv1.NetworkPolicy, addr netip.Addr, protocol corev1.Protocol, port int32) bool {
	for _, p := range policies {
		for _, rule := range p.Spec.Egress {
			if slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool { return inBlock(peer.IPBlock, addr) }) &&
				slices.ContainsFunc(rule.Ports, func(q networkingv1.NetworkPolicyPort) bool {
					return *q.Protocol == protocol && (q.Port == nil || q.Port.IntVal == port)
				}) {
				return true
			}
		}
	}
	return false
}

func inBlock(b *networkingv1.IPBlock, addr netip.Addr) bool {
	return b != nil && netip.MustParsePrefix(b.CIDR).Contains(addr) &&
		!slices.ContainsFunc(b.Except, func(s string) bool { return netip.MustParsePrefix(s).Contains(addr) })
}

// TestX54Policies asks the NetworkPolicies of a tenant what its sandboxes reach.
func TestX54Policies(t *testing.T) {
	never := []string{"169.254.169.254", "169.254.170.2", "127.0.0.1", "fe80::1", "::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}
	private := []string{"10.96.0.1", "10.88.0.2", "10.244.0.7", "172.20.0.1", "192.168.1.1", "100.64.0.1", "fd12::1"}
	odd := []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:0:1::1", "::a00:1", "ff02::1"}
	public := []string{"1.1.1.1", "9.255.255.255", "11.0.0.0", "172.32.0.1", "2606:4700::1111", "2a00::1"}
	for _, c := range []struct {
		egress   []string
		opens    []string
		shuts    []string
		port     int32
		protocol corev1.Protocol
	}{
		{nil, nil, slices.Concat(never, private, odd, public), 443, corev1.ProtocolTCP},
		{[]string{"internet"}, public, slices.Concat(never, private, odd), 443, corev1.ProtocolTCP},
		{[]string{"internet"}, public, slices.Concat(never, private, odd), 4433, corev1.ProtocolUDP},
		{[]string{"internet"}, nil, slices.Concat(never, private, odd, public), 443, corev1.ProtocolSCTP},
		{[]string{"internet:443"}, public, slices.Concat(never, private, odd), 443, corev1.ProtocolTCP},
		{[]string{"internet:443"}, nil, slices.Concat(never, private, odd, public), 80, corev1.ProtocolTCP},
		{[]string{"internet:443"}, nil, slices.Concat(never, private, odd, public), 443, corev1.ProtocolUDP},
		{[]string{"10.0.0.0/8"}, []string{"10.96.0.1", "10.244.0.7"}, slices.Concat(never, public, []string{"172.20.0.1"}), 5432, corev1.ProtocolTCP},
		{[]string{"0.0.0.0/0"}, []string{"10.96.0.1", "1.1.1.1"}, append(never, "fd12::1"), 80, corev1.ProtocolTCP},
		{[]string{"::/0"}, []string{"fd12::1", "2a00::1"}, append(never, "1.1.1.1"), 80, corev1.ProtocolTCP},
		{[]string{"100.64.0.0/10"}, []string{"100.64.0.1"}, append(never, "10.0.0.1"), 80, corev1.ProtocolTCP},
		{[]string{"10.20.0.7/32:5432", "broken"}, []string{"10.20.0.7"}, slices.Concat(never, private, public), 5432, corev1.ProtocolTCP},
	} {
		st := paperTenant()
		st.Settings.Egress = c.egress
		policies := paperSite().policies("n", st)
		for _, a := range c.opens {
			if !reaches(policies, netip.MustParseAddr(a), c.protocol, c.port) {
				t.Errorf("%q: %s %s:%d is shut", c.egress, c.protocol, a, c.port)
			}
		}
		for _, a := range c.shuts {
			if reaches(policies, netip.MustParseAddr(a), c.protocol, c.port) {
				t.Errorf("%q: %s %s:%d is open", c.egress, c.protocol, a, c.port)
			}
		}
	}
}

// TestX54InternetIsPublic holds "internet" to what the dial guard takes for public addresses, one family of which it is stricter about: NAT64.
func TestX54InternetIsPublic(t *testing.T) {
	st := paperTenant()
	st.Settings.Egress = []string{"internet"}
	policies := paperSite().policies("n", st)
	rapid.Check(t, func(t *rapid.T) {
		var addr netip.Addr
		if rapid.Bool().Draw(t, "v6") {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], rapid.Uint64().Draw(t, "high"))
			binary.BigEndian.PutUint64(b[8:], rapid.Uint64().Draw(t, "low"))
			if start := rapid.SampledFrom([]string{"", "2000::", "2001::", "2002::", "64:ff9b::", "::", "fd00::", "fe80::", "3fff::"}).Draw(t, "start"); start != "" {
				copy(b[:4], netip.MustParseAddr(start).AsSlice())
			}
			addr = netip.AddrFrom16(b)
		} else {
			addr = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, rapid.Uint32().Draw(t, "v4"))))
		}
		if reaches(policies, addr, corev1.ProtocolTCP, 443) && egress.Judge(addr, nil) != nil {
			t.Errorf("%s is open, and not public: %v", addr, egress.Judge(addr, nil))
		}
	})
}

// TestX54Shape holds what a network plugin goes by beside addresses.
func TestX54Shape(t *testing.T) {
	st := paperTenant()
	s := paperSite()
	byName := make(map[string]networkingv1.NetworkPolicySpec)
	for _, p := range s.policies("n", st) {
		byName[p.Name] = p.Spec
	}
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	deny := byName[policyDeny]
	if len(deny.PodSelector.MatchLabels)+len(deny.PodSelector.MatchExpressions)+len(deny.Ingress)+len(deny.Egress) > 0 || !slices.Equal(deny.PolicyTypes, both) {
		t.Errorf("default deny: %+v", deny)
	}
	in := byName[policyGateway].Ingress
	if len(in) != 1 || len(in[0].From) != 1 || in[0].From[0].NamespaceSelector.MatchLabels[corev1.LabelMetadataName] != "polygate" ||
		in[0].From[0].PodSelector.MatchLabels["app"] != "polygate" {
		t.Errorf("ingress: %+v", in)
	}
	out := byName[policyEgress].Egress
	if len(out) != 1 || len(out[0].To) != 1 || out[0].To[0].PodSelector.MatchLabels["k8s-app"] != "kube-dns" || len(out[0].Ports) != 2 || out[0].Ports[0].Port.IntVal != 53 {
		t.Errorf("egress: %+v", out)
	}
	s.dnsPorts = []int{53, 5353} // OpenShift's pods listen on the second
	if dns := s.names(); len(dns) != 1 || len(dns[0].Ports) != 4 || dns[0].Ports[2].Port.IntVal != 5353 || *dns[0].Ports[2].Protocol != corev1.ProtocolUDP || *dns[0].Ports[3].Protocol != corev1.ProtocolTCP {
		t.Errorf("DNS on two ports: %+v", dns)
	}
	if s.dnsPorts = nil; s.names() != nil { // a rule without ports would open all
		t.Errorf("DNS on no port: %+v", s.names())
	}
	s.gateway, s.dns = Peers{}, Peers{}
	for _, p := range s.policies("n", st) { // a rule without peers would let everybody in, and out
		if len(p.Spec.Ingress)+len(p.Spec.Egress) > 0 {
			t.Errorf("nobody is known, and %s has %+v", p.Name, p.Spec)
		}
	}
	s.gateway = Peers{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")}}
	for _, p := range s.policies("n", st) {
		if p.Name == policyGateway && p.Spec.Ingress[0].From[0].IPBlock.CIDR != "10.0.0.0/24" {
			t.Errorf("a gateway outside: %+v", p.Spec)
		}
	}
}

// TestQuota holds the tenant's quotas as the cluster counts them.
func TestQuota(t *testing.T) {
	got := make(map[string]string)
	for k, v := range paperSite().quota("n", paperTenant()).Spec.Hard {
		got[string(k)] = v.String()
	}
	for k, want := range map[string]string{
		"pods": "5", "requests.cpu": "2500m", "limits.cpu": "2500m", "requests.memory": "3Gi", "limits.memory": "3Gi",
		"requests.ephemeral-storage": "512Mi", "limits.ephemeral-storage": "512Mi", "requests.nvidia.com/gpu": "2",
		"services.nodeports": "0", "services.loadbalancers": "0", "persistentvolumeclaims": "0",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
	none := hard(tenant.Quotas{})
	if q := none["requests.nvidia.com/gpu"]; !q.IsZero() || len(none) != 3+len(knownGPUs()) {
		t.Errorf("without quotas: %v", none)
	}
	limits := paperSite().limits("n", paperTenant()).Spec.Limits[0]
	if d := limits.Default[corev1.ResourceEphemeralStorage]; d.String() != "512Mi" || limits.Max.Cpu().String() != "2500m" || limits.Default.Cpu().String() != "500m" {
		t.Errorf("limits: %+v", limits)
	}
}
