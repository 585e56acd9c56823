package certs

import (
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// CheckPair says what is wrong with a chain and its key, both PEM, as their import would: it has to be for one of the hosts
// at least, where "*.<domain>" is a wildcard. It is for who looks at files before a gateway does.
func CheckPair(chain, key []byte, hosts []string, now time.Time) error {
	p, err := parsePair(chain, key, now)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if covers(p.chain[0], h) {
			return nil
		}
	}
	const most = 5
	if len(hosts) > most {
		hosts = append(hosts[:most:most], "…")
	}
	return fault.New(fault.Invalid, "the certificate is for %s, and for none of the hosts: %s", names(p.chain[0]), strings.Join(hosts, ", "))
}
