package certs

import (
	"context"
	"slices"
	"time"
)

const (
	ticketLook  = 10 * time.Minute // at most between two looks at the keys
	ticketRetry = 5 * time.Second  // after a look that failed
)

// ticketsChanged has the keys read again.
func (m *Manager) ticketsChanged() { poke(m.ticketWake) }

// tickets hands out the session ticket keys that all replicas share, until ctx ends. While they cannot be read, those that
// are there stay in use.
func (m *Manager) tickets(ctx context.Context) {
	var have [][32]byte
	for {
		keys, err := m.readTickets(ctx)
		wait := max(time.Second, min(ticketLook, m.cfg.TicketRotation/32))
		switch {
		case err != nil && ctx.Err() == nil:
			m.cfg.Logger.Warn("the session ticket keys cannot be read; those in use stay", "error", err)
			wait = ticketRetry
		case err == nil && !slices.Equal(keys, have):
			have = keys
			m.cfg.TicketKeys(slices.Clone(keys))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-m.ticketWake:
			t.Stop()
		}
	}
}

func (m *Manager) readTickets(ctx context.Context) (keys [][32]byte, err error) {
	defer caught(&err)
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	return m.cfg.Keeper.TicketKeys(ctx, m.cfg.Now(), m.cfg.TicketRotation)
}
