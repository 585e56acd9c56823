package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polygate/polygate/registry"
)

// statusTimeout is how long one member may take to tell how it is.
const statusTimeout = 2 * time.Second

// assumedQuota is etcd's quota where nobody set one; members before 3.6 do not tell theirs.
const assumedQuota = 2 << 30

var _ registry.StatusReader = (*Backend)(nil)

// Status implements registry.StatusReader. All members are asked at once.
func (b *Backend) Status(ctx context.Context) (registry.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	endpoints := b.client.Endpoints()
	if len(endpoints) == 0 { // in this process
		endpoints = []string{""}
	}
	answers := make([]*clientv3.StatusResponse, len(endpoints))
	errs := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, ep := range endpoints {
		wg.Go(func() { answers[i], errs[i] = b.client.Status(ctx, ep) })
	}
	var alarms []string
	wg.Go(func() { alarms = b.alarms(ctx) })
	var others []registry.Member
	if b.fellows != nil {
		wg.Go(func() { others = b.fellows(ctx) })
	}
	wg.Wait()
	st := summary(endpoints, answers, errs)
	st.Members = append(st.Members, others...)
	st.Alarms = merge(st.Alarms, alarms)
	if !slices.ContainsFunc(answers, func(a *clientv3.StatusResponse) bool { return a != nil }) {
		return st, fmt.Errorf("etcd: %w", classify(errors.Join(errs...)))
	}
	return st, nil
}

// alarms asks for the alarms of the cluster; without an answer there is none to tell.
func (b *Backend) alarms(ctx context.Context) []string {
	resp, err := b.client.AlarmList(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range resp.Alarms {
		if a.Alarm != pb.AlarmType_NONE {
			out = append(out, a.Alarm.String())
		}
	}
	return out
}

func merge(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// summary makes one status of the members' answers.
func summary(endpoints []string, answers []*clientv3.StatusResponse, errs []error) registry.Status {
	var st registry.Status
	for i, a := range answers {
		m := registry.Member{Name: endpoints[i], Address: endpoints[i]}
		if a == nil {
			m.Error = fmt.Sprint(classify(errs[i]))
			st.Members = append(st.Members, m)
			continue
		}
		m.Version, m.Leader = a.Version, a.Leader == a.Header.MemberId
		m.Healthy = a.Leader != 0
		if !m.Healthy {
			m.Error = "it has no leader"
		}
		st.Members = append(st.Members, m)
		st.DBSize, st.DBInUse = max(st.DBSize, a.DbSize), max(st.DBInUse, a.DbSizeInUse)
		quota := a.DbSizeQuota
		if quota <= 0 {
			quota = assumedQuota
		}
		if st.Quota == 0 || quota < st.Quota {
			st.Quota = quota
		}
		if st.Version == "" || olderVersion(a.Version, st.Version) {
			st.Version = a.Version
		}
		st.Alarms = append(st.Alarms, alarmsOf(a.Errors)...)
	}
	st.Alarms = merge(st.Alarms, nil)
	return st
}

// alarmsOf finds alarms among the errors that a member reports of itself.
func alarmsOf(errs []string) []string {
	var out []string
	for _, e := range errs {
		for _, name := range []string{"NOSPACE", "CORRUPT"} {
			if strings.Contains(e, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// Recover is the way out where etcd's database is full, once what filled it is deleted: it compacts the history,
// defragments every member, one after the other, and takes back the NOSPACE alarm. Each member stops for as long as its
// defragmentation takes, which is some seconds for a gigabyte.
func (b *Backend) Recover(ctx context.Context) error {
	if err := b.Shrink(ctx); err != nil {
		return err
	}
	return b.Disarm(ctx)
}

// Shrink is Recover without the alarm. In an embedded cluster it reaches the own member alone, and the alarm is to be taken
// back when all are done: one that is full raises it again.
func (b *Backend) Shrink(ctx context.Context) error {
	resp, err := b.client.Get(ctx, b.root)
	if err != nil {
		return fmt.Errorf("read the revision: %w", classify(err))
	}
	if _, err := b.client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(classify(err), registry.ErrCompacted) {
		return fmt.Errorf("compact: %w", classify(err))
	}
	if b.defrag != nil {
		if err := b.defrag(); err != nil {
			return fmt.Errorf("defragment: %w", classify(err))
		}
		return nil
	}
	for _, ep := range b.client.Endpoints() {
		if _, err := b.client.Defragment(ctx, ep); err != nil {
			return fmt.Errorf("defragment %s: %w", ep, classify(err))
		}
	}
	return nil
}

// Disarm takes back the NOSPACE alarm.
func (b *Backend) Disarm(ctx context.Context) error {
	alarms, err := b.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("list the alarms: %w", classify(err))
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := b.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			return fmt.Errorf("disarm the NOSPACE alarm: %w", classify(err))
		}
	}
	return nil
}
