package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// changes makes changes at one replica and asks the others until they know.
func (f *fleet) changes(ctx context.Context, n int) error {
	var list []time.Duration
	for i := range n {
		name := fmt.Sprintf("name-%d", i)
		if _, err := f.replicas[i%3].operator(ctx, http.MethodPut, "/api/v1/tenants/t0", map[string]string{"display_name": name}); err != nil {
			return err
		}
		began := time.Now() // the answer is there: it is in the index of that replica
		for _, r := range f.replicas {
			err := await(5*time.Second, func() error {
				b, err := f.ask(ctx, r, http.MethodGet, "t0", "/api/v1/whoami", nil)
				if err == nil && !bytes.Contains(b, []byte(name)) {
					return errors.New("it is not known there")
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		list = append(list, time.Since(began))
	}
	row("change acknowledged, to effect on all replicas", list)
	return nil
}

// forwarded sends requests to the owner and to another replica in turn, in blocks, so that both have the same machine.
func (f *fleet) forwarded(ctx context.Context, n int) error {
	owner, err := f.owner(ctx, f.replicas[0], "t1")
	if err != nil || owner == nil {
		return fmt.Errorf("nobody owns t1: %w", err)
	}
	other := f.replicas[0]
	if other == owner {
		other = f.replicas[1]
	}
	const block = 100
	times, cpu := make(map[*replica][]time.Duration), make(map[*replica]time.Duration)
	for range max(1, n/block) {
		for _, r := range []*replica{owner, other} {
			before := f.cpu()
			for range block {
				began := time.Now()
				if _, err := f.ask(ctx, r, http.MethodGet, "t1", "/api/v1/servers/s", nil); err != nil {
					return err
				}
				times[r] = append(times[r], time.Since(began))
			}
			cpu[r] += f.cpu() - before
		}
	}
	sent := time.Duration(len(times[owner]))
	row("request to the owner", times[owner])
	row("request that is forwarded", times[other])
	fmt.Printf("%-52s %s and %s: %s for the hop\n", "CPU of all replicas, for each", cpu[owner]/sent, cpu[other]/sent, (cpu[other]-cpu[owner])/sent)
	return nil
}

// cpu is the processor time of all replicas so far.
func (f *fleet) cpu() (sum time.Duration) {
	const tick = 10 * time.Millisecond // of /proc/<pid>/stat
	for _, r := range f.replicas {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if fields := strings.Fields(rest); len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			sum += time.Duration(user+system) * tick
		}
	}
	return sum
}

// moves moves a tenant round while it is asked without a pause. The slowest answer of each move is its pause.
func (f *fleet) moves(ctx context.Context, n int) error {
	var took, pauses, usual []time.Duration
	failed, sent := 0, 0
	for i := range n {
		to := f.replicas[i%3]
		stop, done := make(chan struct{}), make(chan struct{})
		var slowest time.Duration
		go func() {
			defer close(done)
			for {
				began := time.Now()
				_, err := f.ask(ctx, f.replicas[0], http.MethodGet, "t2", "/api/v1/servers/s", nil)
				slowest = max(slowest, time.Since(began))
				usual = append(usual, time.Since(began))
				if sent++; err != nil {
					failed++
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		began := time.Now()
		_, err := to.operator(ctx, http.MethodPost, "/api/v1/tenants/t2/move", map[string]string{"to": to.name})
		took = append(took, time.Since(began))
		close(stop)
		<-done
		pauses = append(pauses, slowest)
		if err != nil {
			return err
		}
	}
	row("move of a tenant, as the operator sees it", took)
	row("slowest request during a move", pauses)
	row("all requests during moves", usual)
	fmt.Printf("%-52s %d of %d\n", "requests that failed in moves", failed, sent)
	return nil
}

// crashes kills the owner of a tenant and asks another replica until the tenant is served.
func (f *fleet) crashes(ctx context.Context, n int) error {
	var list []time.Duration
	for i := range n {
		tenant := fmt.Sprintf("t%d", 3+i%10)
		victim, err := f.owner(ctx, f.replicas[i%3], tenant)
		if err != nil {
			return err
		}
		if victim == nil {
			victim = f.replicas[i%3]
		}
		ask := f.replicas[0]
		if ask == victim {
			ask = f.replicas[1]
		}
		victim.kill()
		began := time.Now()
		err = await(time.Minute, func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, err := f.ask(ctx, ask, http.MethodGet, tenant, "/api/v1/servers/s", nil)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s is not served after its owner was killed: %w", tenant, err)
		}
		list = append(list, time.Since(began))
		if err := victim.start(); err != nil {
			return err
		}
		if err := victim.awaitReady(time.Minute); err != nil {
			return err
		}
		if err := f.useAll(ctx); err != nil {
			return err
		}
	}
	row(fmt.Sprintf("tenant away after kill -9 of its owner, ttl %s", f.o.ttl), list)
	return nil
}

// useAll has every tenant owned by somebody.
func (f *fleet) useAll(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(f.keys))
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = f.ask(ctx, f.replicas[i%3], http.MethodGet, fmt.Sprintf("t%d", i), "/api/v1/servers/s", nil)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
