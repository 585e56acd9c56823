// Command cluster measures what it costs that several replicas are one gateway: it runs etcd and replicas as processes on this
// machine, and prints how long a change takes to have its effect elsewhere, for how long tenants are away after a crash and
// in a move, what a forwarded request costs beside one that is not, and what an index of many tenants needs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the flags.
type options struct {
	polygate, etcd, dir string
	ttl                 time.Duration
	changes, crashes    int
	moves, requests     int
	sizes               string
}

func main() {
	var o options
	flag.StringVar(&o.polygate, "polygate", "polygate", "the `program` to measure")
	flag.StringVar(&o.etcd, "etcd", "etcd", "etcd's `program`")
	flag.StringVar(&o.dir, "dir", "", "an empty `folder` for data and logs; required")
	flag.DurationVar(&o.ttl, "ttl", 5*time.Second, "of the replicas' leases")
	flag.IntVar(&o.changes, "changes", 200, "how many changes of configuration are followed; 0 = leave that out, as for the others")
	flag.IntVar(&o.crashes, "crashes", 50, "how many owners are killed")
	flag.IntVar(&o.moves, "moves", 100, "how many moves are made")
	flag.IntVar(&o.requests, "requests", 2000, "how many requests are sent to the owner, and as many to another")
	flag.StringVar(&o.sizes, "sizes", "10000,100000,1000000", "how many tenants the index has, one after the other")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.dir == "" {
		return fmt.Errorf("-dir is missing: name an empty folder")
	}
	for _, stage := range []struct {
		wanted bool
		run    func(context.Context, options) error
	}{
		{o.changes+o.crashes+o.moves+o.requests > 0, measureFleet},
		{o.sizes != "", measureIndexes},
	} {
		if stage.wanted {
			if err := stage.run(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureFleet runs what needs three replicas.
func measureFleet(ctx context.Context, o options) error {
	f, err := startFleet(o, "fleet", 3, 3)
	if err != nil {
		return err
	}
	defer f.end()
	if err := f.makeTenants(ctx, 20); err != nil {
		return err
	}
	for _, stage := range []struct {
		times int
		run   func(context.Context, int) error
	}{{o.changes, f.changes}, {o.requests, f.forwarded}, {o.moves, f.moves}, {o.crashes, f.crashes}} {
		if stage.times > 0 {
			if err := stage.run(ctx, stage.times); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureIndexes runs one replica after the other, each with more tenants.
func measureIndexes(ctx context.Context, o options) error {
	for _, s := range strings.Split(o.sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("-sizes: %w", err)
		}
		if err := measureIndex(ctx, o, n); err != nil {
			return err
		}
	}
	return nil
}

// row prints a line of figures: quantiles of durations.
func row(what string, list []time.Duration) {
	slices.Sort(list)
	if len(list) == 0 {
		fmt.Printf("%-52s none\n", what)
		return
	}
	at := func(q float64) string {
		d := list[min(len(list)-1, int(q*float64(len(list))))]
		unit := time.Duration(1)
		for unit*1000 < d {
			unit *= 10
		}
		return d.Round(unit).String()
	}
	fmt.Printf("%-52s n %-5d p50 %-9s p90 %-9s p99 %-9s max %s\n", what, len(list), at(0.5), at(0.9), at(0.99), at(1))
}
