package main

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/registry"
)

// platformStatus is the answer of GET /api/v1/status.
type platformStatus struct {
	telemetry.Status
	Storage storageStatus `json:"storage"`
}

// storageStatus is how full and how well the registry's store is.
type storageStatus struct {
	Sampled  time.Time       `json:"sampled,omitzero"`
	Version  string          `json:"version,omitempty"`
	DBSize   int64           `json:"db_bytes"`
	DBInUse  int64           `json:"db_bytes_in_use"`
	Quota    int64           `json:"quota_bytes"`
	Alarms   []string        `json:"alarms"`
	Problems []string        `json:"problems"` // with the way out
	Error    string          `json:"error,omitempty"`
	Members  []storageMember `json:"members"`
}

type storageMember struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Address string `json:"address,omitempty"`
	Leader  bool   `json:"leader"`
	Healthy bool   `json:"healthy"`
	Error   string `json:"error,omitempty"`
}

func storageOf(r registry.StorageReport) storageStatus {
	s := storageStatus{
		Sampled: r.Sampled, Version: r.Status.Version, DBSize: r.Status.DBSize, DBInUse: r.Status.DBInUse, Quota: r.Status.Quota,
		Alarms: append([]string{}, r.Status.Alarms...), Problems: append([]string{}, r.Problems...), Error: r.Error, Members: []storageMember{},
	}
	for _, m := range r.Status.Members {
		s.Members = append(s.Members, storageMember(m))
	}
	return s
}

// status counts over all replicas.
func (d *daemon) status(ctx context.Context) (any, error) {
	st := platformStatus{Status: d.numbers.Status(ctx), Storage: storageOf(d.store.Storage())}
	st.Registered = d.store.Index().Len()
	return st, nil
}

// ownStatus is what this replica says of itself.
func (d *daemon) ownStatus() telemetry.ReplicaStatus {
	index, self := d.store.Index(), d.cfg.Replica.Name
	st := telemetry.ReplicaStatus{Name: self, Up: true, Version: readBuild().Version, Tenants: index.OwnedCount(self), Guards: d.guards.Stats().Guards}
	if r, ok := index.Replica(self); ok {
		st.Draining, st.Started = r.Draining, r.Started
	}
	return st
}

// storageMetrics are gauges of the registry's store.
func (d *daemon) storageMetrics() []prometheus.Collector {
	gauge := func(name, help string, of func(registry.StorageReport) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return of(d.store.Storage()) })
	}
	return []prometheus.Collector{
		gauge("polygate_store_db_bytes", "Size of the registry's database.", func(r registry.StorageReport) float64 { return float64(r.Status.DBSize) }),
		gauge("polygate_store_db_in_use_bytes", "Bytes of it that hold something.", func(r registry.StorageReport) float64 { return float64(r.Status.DBInUse) }),
		gauge("polygate_store_quota_bytes", "Size of it at which it takes no more writes; 0 = it does not say.", func(r registry.StorageReport) float64 { return float64(r.Status.Quota) }),
		gauge("polygate_store_alarms", "Alarms of the registry's store, such as NOSPACE.", func(r registry.StorageReport) float64 { return float64(len(r.Status.Alarms)) }),
	}
}

// telemetryRoutes adds the numbers of all replicas to those of this one.
func telemetryRoutes(own, all http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics/cluster", all)
	mux.Handle("/", own)
	return mux
}
