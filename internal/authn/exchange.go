package authn

import "sync"

// exchanges counts the code exchanges that are under way, by tenant uid. Whoever began one login can send its callback any
// number of times, and each would open a connection to an issuer that a tenant's admin chose and that may answer as slowly as it
// likes: all of the process's file descriptors, which are every tenant's, would be held by one (C-1). The zero value is ready,
// and safe for concurrent use.
type exchanges struct {
	mu sync.Mutex
	of map[string]int // guarded by mu
}

// enter takes one of a tenant's places; each true is to be paired with a leave.
func (x *exchanges) enter(uid string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of[uid] >= maxExchanges {
		return false
	}
	if x.of == nil {
		x.of = make(map[string]int)
	}
	x.of[uid]++
	return true
}

func (x *exchanges) leave(uid string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of[uid]--; x.of[uid] == 0 {
		delete(x.of, uid)
	}
}
