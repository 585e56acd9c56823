package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// The NetworkPolicies of a tenant's namespace. What they allow adds up; nothing that they do not allow passes, to or from any pod.
const (
	policyDeny    = "polygate-default-deny"
	policyGateway = "polygate-gateway"
	policyEgress  = "polygate-egress"
)

// list returns peers as a policy knows them. Both selectors are in one peer, so that both must match. Without a namespace no pod is meant:
// an empty selector would mean all.
func (p Peers) list() []networkingv1.NetworkPolicyPeer {
	var all []networkingv1.NetworkPolicyPeer
	if p.Namespace != "" {
		all = append(all, networkingv1.NetworkPolicyPeer{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: p.Namespace}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: p.PodLabels},
		})
	}
	for _, a := range p.Addresses {
		all = append(all, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: a.Masked().String()}})
	}
	return all
}

// policies returns the NetworkPolicies of a tenant's namespace, sorted by name. The first shuts everything, for all pods of the
// namespace; the others open, for sandboxes alone, what they need.
func (s site) policies(namespace string, t sandbox.Tenant) []*networkingv1.NetworkPolicy {
	policies := []*networkingv1.NetworkPolicy{
		s.policy(namespace, policyDeny, t, networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}),
		s.policy(namespace, policyEgress, t, networkingv1.NetworkPolicySpec{
			PodSelector: sandboxPods(),
			Egress:      append(s.names(), reachable(t.Settings.Egress)...),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		}),
	}
	if from := s.gateway.list(); len(from) > 0 { // without a peer, a rule would let everybody in
		policies = append(policies, s.policy(namespace, policyGateway, t, networkingv1.NetworkPolicySpec{
			PodSelector: sandboxPods(),
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: from, Ports: ports(corev1.ProtocolTCP)}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		}))
	}
	return policies
}

func (s site) policy(namespace, name string, t sandbox.Tenant, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: s.meta(namespace, name, t.Scope.ID().String(), t.Scope.UID()),
		Spec:       spec,
	}
}

// meta is that of all objects which the gateway keeps in a tenant's namespace.
func (s site) meta(namespace, name, id, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
		LabelManagedBy: manager, LabelInstance: s.instance, LabelTenant: id, LabelTenantUID: uid,
	}}
}

func sandboxPods() metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: LabelSandbox, Operator: metav1.LabelSelectorOpExists}}}
}

// names lets sandboxes ask the cluster's DNS.
func (s site) names() []networkingv1.NetworkPolicyEgressRule {
	to := s.dns.list()
	if len(to) == 0 || len(s.dnsPorts) == 0 { // a rule without ports would open all
		return nil
	}
	var on []networkingv1.NetworkPolicyPort
	for _, port := range s.dnsPorts {
		on = append(on, onPort(corev1.ProtocolUDP, port), onPort(corev1.ProtocolTCP, port))
	}
	return []networkingv1.NetworkPolicyEgressRule{{To: to, Ports: on}}
}

func onPort(protocol corev1.Protocol, port int) networkingv1.NetworkPolicyPort {
	number := intstr.FromInt32(int32(port))
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
}

// ports returns all ports of some protocols: a rule without ports would mean every protocol that there is.
func ports(protocols ...corev1.Protocol) []networkingv1.NetworkPolicyPort {
	var all []networkingv1.NetworkPolicyPort
	for i := range protocols {
		all = append(all, networkingv1.NetworkPolicyPort{Protocol: &protocols[i]})
	}
	return all
}

// reachable returns the rules for what an operator lets a tenant reach. The record was validated; an entry that cannot be read all
// the same allows nothing.
func reachable(entries []string) []networkingv1.NetworkPolicyEgressRule {
	var rules []networkingv1.NetworkPolicyEgressRule
	for _, e := range entries {
		r, err := tenant.ParseEgress(e)
		if err != nil {
			continue
		}
		rule := networkingv1.NetworkPolicyEgressRule{Ports: ports(corev1.ProtocolTCP, corev1.ProtocolUDP)}
		if r.Port != 0 {
			rule.Ports = []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(int32(r.Port)))}}
		}
		for _, b := range blocks(r) {
			rule.To = append(rule.To, networkingv1.NetworkPolicyPeer{IPBlock: &b})
		}
		rules = append(rules, rule)
	}
	return rules
}

// blocks returns the addresses of a rule. An operator may open a private network, and even that does not open what lies within it
// and is never a sandbox's: the metadata services of clouds, link-local addresses and loopback.
func blocks(r tenant.EgressRule) []networkingv1.IPBlock {
	if !r.Internet {
		return []networkingv1.IPBlock{{CIDR: r.Prefix.String(), Except: within(r.Prefix, never())}}
	}
	return []networkingv1.IPBlock{
		{CIDR: "0.0.0.0/0", Except: within(netip.MustParsePrefix("0.0.0.0/0"), notPublic())},
		{CIDR: "::/0", Except: within(netip.MustParsePrefix("::/0"), notPublic())},
	}
}

// within returns those of the prefixes that lie within p.
func within(p netip.Prefix, all []string) []string {
	var in []string
	for _, s := range all {
		if q := netip.MustParsePrefix(s); q.Bits() > p.Bits() && p.Contains(q.Addr()) {
			in = append(in, s)
		}
	}
	return in
}

// never are addresses that no sandbox may reach.
func never() []string {
	return []string{
		"127.0.0.0/8", "169.254.0.0/16", // loopback; link-local, where clouds keep instances' credentials
		"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", // metadata and machinery of clouds elsewhere
		"::1/128", "fe80::/10", "fd00:ec2::/32", "fd20:ce::/64", // likewise
	}
}

// notPublic are the addresses that "internet" leaves out (IANA special-purpose registries, and clouds' machinery). The ranges do not
// overlap: some network plugins refuse those that do. IPv6 forms that carry an IPv4 address are out because a translator on
// the way would lead them to the private one that they carry.
func notPublic() []string {
	return []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
		"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	}
}
