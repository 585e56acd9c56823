package plan

import "fmt"

// micro is a cost in microseconds at a rate, as cores.
func micro(name string, rate, micros float64) Term {
	return Term{Name: name, Amount: rate * micros / 1e6, How: fmt.Sprintf("%s/s × %s µs", figure(rate, 4), figure(micros, 4))}
}

// cpu is what one serving replica burns at the peak, in cores.
func (s *shape) cpu() Sum {
	n, r := float64(s.n), s.d.Requests.PerSecond
	var terms []Term
	for _, p := range protocols() {
		terms = append(terms, micro(p+" requests", r*s.d.Requests.Protocols[p]/n, s.c.of(requestCost(p))))
	}
	for _, k := range credentials() {
		terms = append(terms, micro("credentials: "+k, r*s.d.Requests.Credentials[k]/n, s.c.of(credentialCost(k))))
	}
	more := max(float64(s.d.Requests.AnswerBytes)-520, 0) / 1024
	resumed := s.d.Connections.ResumedShare
	terms = append(terms,
		micro("answers past 520 bytes", r*more/n, s.c.of(costAnswer)),
		micro("requests passed to the owner, and taken from others", s.virtualRate()*(n-1)/n/n, s.c.of(costForward)),
		micro("full handshakes", s.handshakes()*(1-resumed)/n, s.c.of(costFull)),
		micro("resumed handshakes", s.handshakes()*resumed/n, s.c.of(costResumed)),
		micro("gateways opened and closed", s.openings()/n, s.c.of(costOpening)),
		micro("changes, of which each replica hears", s.changes(), s.c.of(costChange)),
		micro("audit heads anchored", s.ownHeads(), s.c.of(costHead)),
	)
	return sum(terms...)
}

// ownHeads is how many heads one replica anchors a second; with a member of etcd in it, it carries those of all.
func (s *shape) ownHeads() float64 {
	if s.kind == External {
		return s.heads(float64(s.n)) / float64(s.n)
	}
	return s.heads(s.running())
}

// store is an amount of bytes.
func store(name string, number, bytes float64) Term {
	return Term{Name: name, Amount: number * bytes, How: fmt.Sprintf("%s × %s bytes", figure(number, 6), figure(bytes, 6))}
}

// residentCertificates is limits.resident_certificates.
const residentCertificates = 10_000

// inFlight is how long a request is taken to be under way, in seconds.
const inFlight = 0.1

// memory is what one serving replica has resident at the peak, in bytes.
func (s *shape) memory() Sum {
	n, c := float64(s.n), s.c
	terms := []Term{
		store("the process itself", 1, c.of(memBase)),
		store("registered tenants, all on each replica", float64(s.d.Tenants), c.of(memRegistered)),
		store("active virtual tenants", s.activeVirtual()/n, c.of(memActive)),
		store("active dedicated tenants, on each replica", s.activeDedicated(), c.of(memActive)),
		store("connections", float64(s.d.Connections.Open)/n, c.of(memConnection)),
		store("streams", float64(s.d.Streams)/n, c.of(memStream)),
		store("certificates in use", min(float64(s.d.Certificates.Number), residentCertificates), c.of(memCertificate)),
		store("requests in flight", s.d.Requests.PerSecond*inFlight/n, c.of(memRequest)),
		store("sandboxes", float64(s.d.Sandboxes.Open)/n, c.of(memSandbox)),
	}
	if s.kind != External {
		live, history := s.live(), s.flows()
		keys := count(live)
		for _, f := range history {
			keys += f.rate * (f.puts + f.deletes) * s.historySeconds()
		}
		terms = append(terms, store("etcd's member itself", 1, c.of(memMember)),
			store("etcd's database, mapped", s.etcd().Size.Total, c.of(memStoreByte)), store("etcd's index", keys, c.of(memStoreKey)))
	}
	return sum(terms...)
}
