package plan

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawDemand draws a demand that is valid.
func drawDemand(t *rapid.T) Demand {
	d := defaults()
	number := func(name string, most float64) float64 {
		return math.Round(math.Pow(10, rapid.Float64Range(0, math.Log10(most)).Draw(t, name))) - 1
	}
	d.Tenants = 1 + int(number("tenants", 300_000))
	d.ActiveShare = rapid.Float64Range(0, 1).Draw(t, "active")
	d.VirtualShare = rapid.Float64Range(0, 1).Draw(t, "virtual")
	d.Keys, d.Hosts, d.Servers = rapid.IntRange(0, 5).Draw(t, "keys"), rapid.IntRange(0, 3).Draw(t, "hosts"), rapid.IntRange(0, 10).Draw(t, "servers")
	d.Requests.PerSecond = number("requests", 30_000)
	d.Requests.AnswerBytes = Size(number("answer", 1<<20))
	a, b := rapid.SampledFrom(protocols()).Draw(t, "protocol"), rapid.SampledFrom(protocols()).Draw(t, "another")
	d.Requests.Protocols = map[string]float64{a: 0.25}
	d.Requests.Protocols[b] += 0.75
	d.Requests.Credentials = map[string]float64{rapid.SampledFrom(credentials()).Draw(t, "credential"): 1}
	d.Connections.Open, d.Streams = int(number("connections", 100_000)), int(number("streams", 50_000))
	d.Connections.Life = time.Duration(1+number("life", 3600)) * time.Second
	d.Certificates.Number = int(number("certificates", 100_000))
	d.Sandboxes.Open, d.Sandboxes.StartsPerDay = int(number("sandboxes", 10_000)), number("starts", 100_000)
	d.ChangesPerDay = number("changes", 1_000_000)
	d.SpareReplicas = rapid.IntRange(0, 3).Draw(t, "spare")
	d.Etcd.Kind = rapid.SampledFrom([]StoreKind{"", Embedded, Cluster, External}).Draw(t, "store")
	d.Etcd.QuotaBytes = rapid.SampledFrom([]Size{2 << 30, 8 << 30, 1 << 40}).Draw(t, "quota")
	d.Machine = Machine{Cores: rapid.Float64Range(0.5, 64).Draw(t, "cores"), Memory: Size(rapid.IntRange(1, 64).Draw(t, "memory")) << 30, Headroom: 0.6}
	return d
}

// ways are the ways in which a demand can be more.
func ways() map[string]func(*Demand, float64) {
	return map[string]func(*Demand, float64){
		"tenants":      func(d *Demand, by float64) { d.Tenants = int(math.Ceil(float64(d.Tenants) * by)) },
		"active":       func(d *Demand, by float64) { d.ActiveShare = min(d.ActiveShare*by, 1) },
		"requests":     func(d *Demand, by float64) { d.Requests.PerSecond *= by },
		"answers":      func(d *Demand, by float64) { d.Requests.AnswerBytes = Size(float64(d.Requests.AnswerBytes) * by) },
		"connections":  func(d *Demand, by float64) { d.Connections.Open = int(float64(d.Connections.Open) * by) },
		"streams":      func(d *Demand, by float64) { d.Streams = int(float64(d.Streams) * by) },
		"certificates": func(d *Demand, by float64) { d.Certificates.Number = int(float64(d.Certificates.Number) * by) },
		"sandboxes":    func(d *Demand, by float64) { d.Sandboxes.Open = int(float64(d.Sandboxes.Open) * by) },
		"starts":       func(d *Demand, by float64) { d.Sandboxes.StartsPerDay *= by },
		"changes":      func(d *Demand, by float64) { d.ChangesPerDay *= by },
		"keys":         func(d *Demand, by float64) { d.Keys = int(float64(d.Keys) * by) },
		"servers":      func(d *Demand, by float64) { d.Servers = int(float64(d.Servers) * by) },
		"history":      func(d *Demand, by float64) { d.Etcd.CompactAfter = time.Duration(float64(d.Etcd.CompactAfter) * by) },
		"life": func(d *Demand, by float64) {
			d.Connections.Life = max(time.Duration(float64(d.Connections.Life)/by), time.Millisecond)
		},
		"less memory": func(d *Demand, by float64) {
			d.Machine.Memory = max(Size(float64(d.Machine.Memory)/by), 64<<20)
		},
		"fewer cores": func(d *Demand, by float64) { d.Machine.Cores = max(d.Machine.Cores/by, 0.1) },
	}
}

// TestMoreNeedsNoLess: whatever there is more of, it takes no fewer replicas, and etcd no less.
func TestMoreNeedsNoLess(t *testing.T) {
	c := testCosts(t)
	for way, more := range ways() {
		t.Run(way, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				less := drawDemand(t)
				greater := less
				more(&greater, rapid.Float64Range(1, 20).Draw(t, "by"))
				a, errA := Compute(less, c, Machine{})
				b, errB := Compute(greater, c, Machine{})
				if errB == nil && errA != nil {
					t.Fatalf("more can be served, and less cannot: %v", errA)
				}
				if errA != nil || errB != nil {
					return
				}
				if b.Replicas.Serving < a.Replicas.Serving {
					t.Fatalf("got %d serving replicas for more, %d for less", b.Replicas.Serving, a.Replicas.Serving)
				}
				for _, s := range [][2]Sum{{a.Etcd.Puts, b.Etcd.Puts}, {a.Etcd.Writes, b.Etcd.Writes}, {a.Etcd.Live, b.Etcd.Live}, {a.Etcd.Size, b.Etcd.Size}} {
					for _, less := range s[0].Terms {
						if got := term(s[1], less.Name); got < less.Amount*(1-1e-9) {
							t.Fatalf("etcd got less for more: %s %v after %v", less.Name, got, less.Amount)
						}
					}
				}
			})
		})
	}
}

// TestPlansAddUp: sums are those of their terms, limits hold unless the plan says that they do not, and one replica fewer would not do.
func TestPlansAddUp(t *testing.T) {
	c := testCosts(t)
	rapid.Check(t, func(t *rapid.T) {
		d := drawDemand(t)
		p, err := Compute(d, c, Machine{})
		if err != nil && (!errors.Is(err, ErrNone) || p == nil) {
			t.Fatalf("a valid demand: %v", err)
		}
		for _, s := range []Sum{p.CPU, p.Memory, p.Etcd.Live, p.Etcd.Size, p.Etcd.Writes, p.Etcd.Puts} {
			if err := addsUp(s); err != nil {
				t.Fatal(err)
			}
		}
		for _, l := range p.Limits {
			if err == nil && l.Share > 1 {
				t.Fatalf("%s takes %.2f of what there is, and nobody said so", l.Name, l.Share)
			}
			if l.Replicas > p.Replicas.Serving {
				t.Fatalf("%s alone needs %d replicas, all together %d", l.Name, l.Replicas, p.Replicas.Serving)
			}
		}
		if err == nil && p.Replicas.Serving > 1 {
			fewer := &shape{d: filled(d), c: c, n: p.Replicas.Serving - 1, kind: External}
			if d.Etcd.Kind != "" {
				fewer.kind = d.Etcd.Kind
			}
			if fits(fewer.limits()) {
				t.Fatalf("%d replicas, and one fewer would do", p.Replicas.Serving)
			}
		}
	})
}

func filled(d Demand) Demand {
	d.fill()
	return d
}

func addsUp(s Sum) error {
	total := 0.0
	for i, t := range s.Terms {
		total += t.Amount
		if t.Amount <= 0 || math.IsInf(t.Amount, 0) || math.IsNaN(t.Amount) {
			return fmt.Errorf("%s is %v", t.Name, t.Amount)
		}
		if i > 0 && s.Terms[i-1].Amount < t.Amount {
			return fmt.Errorf("%s stands behind less", t.Name)
		}
	}
	if math.Abs(total-s.Total) > 1e-6*math.Max(total, 1) {
		return fmt.Errorf("terms add up to %v, the total is %v", total, s.Total)
	}
	return nil
}
