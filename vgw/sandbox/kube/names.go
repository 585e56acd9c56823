package kube

import (
	"sync"
)

// names knows the UIDs of the runs that are watched, by the names of their pods: metrics have no UIDs. It holds no more than the
// cluster has of the tenant.
type names struct {
	mu   sync.Mutex
	uids map[string]string // guarded by mu
}

func newNames() *names { return &names{uids: make(map[string]string)} }

func (n *names) set(name, uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.uids[name] = uid
}

// drop forgets a name, unless it has become another's.
func (n *names) drop(name, uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uids[name] == uid {
		delete(n.uids, name)
	}
}

func (n *names) get(name string) (uid string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	uid, ok = n.uids[name]
	return uid, ok
}

func (n *names) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.uids)
}
