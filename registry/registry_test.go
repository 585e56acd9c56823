package registry_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
)

func TestSmoke(t *testing.T) {
	b := memory.New()
	s, err := registry.New(registry.Config{Backend: b, Replica: "r1", BaseDomain: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	start := time.Now()
	for i := range 1000 {
		e, err := s.CreateTenant(ctx, &tenant.Record{ID: tenant.ID(fmt.Sprintf("t%d", i)), State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI,
			Hosts: []string{fmt.Sprintf("h%d.example.com", i)}}, audit.Entry{ID: audit.NewID(), Action: "tenant.create"})
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Index().ByHost(fmt.Sprintf("t%d.localhost", i)); !ok || got.Scope != e.Scope {
			t.Fatal("not in index")
		}
	}
	t.Log(time.Since(start))
	e, _ := s.Index().ByID("t5")
	c, err := s.Claim(ctx, e.Scope)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := c.Commit(ctx, audit.Entry{ID: audit.NewID(), Action: "server.create", Tenant: "t5"}, tenant.Write{Kind: "server", ID: fmt.Sprint("s", i), Value: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	objs, err := c.Load(ctx, "server")
	if err != nil || len(objs) != 20 {
		t.Fatal(err, len(objs))
	}
	if err := s.DeleteTenant(ctx, "t5", 0, audit.Entry{ID: audit.NewID(), Action: "tenant.delete"}); err != nil {
		t.Fatal(err)
	}
	<-c.Context().Done()
	cancel()
	<-done
}
