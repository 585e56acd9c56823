package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/proxy/admin"
	"github.com/polygate/polygate/registry/etcd"
)

// storage is the daemon's etcd. It implements admin.Storage.
type storage struct {
	d       *daemon
	backend *etcd.Backend
	member  *etcd.Embedded // nil = etcd is not in this process
}

// Members implements admin.Storage.
func (s *storage) Members(context.Context) ([]admin.StoreMember, error) {
	out := []admin.StoreMember{}
	if s.member == nil {
		for _, m := range s.d.store.Storage().Status.Members {
			out = append(out, admin.StoreMember{Name: m.Name, Address: m.Address})
		}
		return out, nil
	}
	for _, m := range s.member.MemberList() {
		out = append(out, admin.StoreMember(m))
	}
	return out, nil
}

// cluster refuses to change what is none.
func (s *storage) cluster() error {
	switch {
	case s.member == nil:
		return fault.New(fault.Conflict, "the registry is in an etcd of your own: change its members with etcdctl member")
	case len(s.d.cfg.Etcd.Embedded.Cluster.Members) == 0:
		return fault.New(fault.Conflict, "the embedded etcd is a single one: start with --cluster to have members")
	}
	return nil
}

func memberAt(all []etcd.ClusterMember, which string) int {
	return slices.IndexFunc(all, func(m etcd.ClusterMember) bool { return m.Name == which || m.Address == which })
}

// AddMember implements admin.Storage.
func (s *storage) AddMember(ctx context.Context, address string, e audit.Entry) error {
	if err := s.cluster(); err != nil {
		return err
	}
	if memberAt(s.member.MemberList(), address) >= 0 {
		return fault.New(fault.Conflict, "etcd has a member at %s: remove it first, if it lost its data", address)
	}
	if err := s.d.store.Record(ctx, e); err != nil {
		return err
	}
	if err := s.member.MemberAdd(ctx, address); err != nil {
		return fault.Wrap(fault.Unavailable, err, "etcd did not take the member: all others must be well; see polygate status")
	}
	return nil
}

// RemoveMember implements admin.Storage.
func (s *storage) RemoveMember(ctx context.Context, which string, e audit.Entry) error {
	if s.member == nil {
		return s.cluster()
	}
	all := s.member.MemberList()
	i := memberAt(all, which)
	switch {
	case which == "" || i < 0:
		return fault.New(fault.NotFound, "etcd has no member %.80q: see polygate etcd member list", which)
	case s.cluster() != nil:
		return s.cluster()
	case all[i].Name == s.d.cfg.Replica.Name:
		return fault.New(fault.Conflict, "member %s is this replica's own: ask another replica to remove it", which)
	}
	if err := s.d.store.Record(ctx, e); err != nil {
		return err
	}
	if err := s.member.MemberRemove(ctx, which); err != nil {
		return fault.Wrap(fault.Unavailable, err, "etcd did not remove the member: a majority of the others must be well; see polygate status")
	}
	return nil
}

// Defrag implements admin.Storage. Of an embedded cluster each replica has its own member, one after the other.
func (s *storage) Defrag(ctx context.Context, e audit.Entry) error {
	full := s.d.store.Record(ctx, e) // a store that is full takes it afterwards
	if err := s.shrink(ctx); err != nil {
		return err
	}
	var left []error
	for _, m := range s.d.cfg.Etcd.Embedded.Cluster.Members {
		if s.member == nil || m.Name == s.d.cfg.Replica.Name {
			continue
		}
		if _, err := (laterCaller{s.d}).Call(ctx, m.Name, peer.Defrag, []byte(`{"v":1}`)); err != nil {
			left = append(left, fmt.Errorf("member %s: %w", m.Name, err))
		}
	}
	if err := s.backend.Disarm(ctx); err != nil {
		return fault.Wrap(fault.Unavailable, err, "etcd was defragmented, and did not take the alarm back: try again")
	}
	if err := errors.Join(left...); err != nil {
		return fault.Wrap(fault.Unavailable, err, "not every member was defragmented, and one that is full raises the alarm again: see polygate etcd member list, start what is away, and try again")
	}
	if full == nil {
		return nil
	}
	return s.d.store.Record(ctx, e)
}

func (s *storage) shrink(ctx context.Context) error {
	if err := s.backend.Shrink(ctx); err != nil {
		return fault.Wrap(fault.Unavailable, err, "etcd was not defragmented: see polygate status")
	}
	return nil
}

// handleDefrag answers peer.Defrag.
func (s *storage) handleDefrag(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	return []byte(`{"v":1}`), s.shrink(ctx)
}
