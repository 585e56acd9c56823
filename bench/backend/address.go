package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Tenants is how many there can be: those with an address from 127.64.0.0 to 127.254.255.255.
const Tenants = (254 - 63) << 16

// Addr is the address of the upstream of the n-th tenant, from 0, at that port.
func Addr(n, port int) string {
	ip := netip.AddrFrom4([4]byte{127, byte(64 + n>>16), byte(n >> 8), byte(n)})
	return net.JoinHostPort(ip.String(), strconv.Itoa(port))
}

// Number is the tenant whose upstream has that address.
func Number(ip netip.Addr) (int, bool) {
	ip = ip.Unmap()
	if !ip.Is4() {
		return 0, false
	}
	a := ip.As4()
	n := (int(a[1])-64)<<16 | int(a[2])<<8 | int(a[3])
	return n, a[0] == 127 && n >= 0 && n < Tenants
}

// Marker begins every canary, and is nowhere else in an answer: an answer in which it is twice is the wrong one.
const Marker = "canary="

// canaryBytes is the length of a canary.
const canaryBytes = len(Marker) + 24 + 1

// Canary is what each answer to the n-th tenant holds. It is drawn from the seed, so that an answer of an earlier run is wrong too.
func Canary(seed string, n int) string {
	h := sha256.Sum256([]byte(seed + "/" + strconv.Itoa(n)))
	return Marker + hex.EncodeToString(h[:12]) + ";"
}

// padding is n bytes of text in lines, without a marker.
func padding(n int) string {
	const line = "The quick brown fox jumps over the lazy dog, and the upstream says so.\n"
	return strings.Repeat(line, n/len(line)+1)[:n]
}
