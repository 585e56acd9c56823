package certs

// Len returns how many certificates are in memory.
func (m *Manager) Len() int { return m.cache.Len() }
