package quota

import (
	"fmt"
	"math"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		own, lent, active, total int64
		want                     Place
	}{
		{0, 0, 1, 0, Owned},
		{624, 0, 1, 0, Owned},
		{625, 0, 1, 0, Lent},       // 10,000/16 are owned by one alone
		{312, 0, 2, 0, Lent},       // half of them by each of two
		{311, 0, 2, 5000, Owned},   // whatever is lent
		{312, 0, 2, 5000, NoPlace}, // nothing is left to lend
		{625, 3999, 1, 3999, Lent}, // one tenant gets four fifths of what is lent …
		{625, 4000, 1, 4000, NoPlace},
		{312, 799, 2, 4799, Lent}, // … the next four fifths of the rest
		{312, 804, 2, 4799, NoPlace},
		{0, 0, 100_000, 5000, Owned}, // one place for everybody
		{1, 0, 100_000, 5000, NoPlace},
		{0, 9000, 1, 9000, Owned}, // places lent before do not count against the share
	} {
		if got := Choose(c.own, c.lent, c.active, c.total, 10_000); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

// TestC1GuaranteedShareIsNeverRefused: whatever comes and goes in whatever order, a tenant that holds less than its share is
// let in, and the sum of the places stays within the bound that the comment of Pool derives.
func TestC1GuaranteedShareIsNeverRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Int64Range(1, 2000).Draw(t, "capacity")
		tenants := rapid.IntRange(1, 60).Draw(t, "tenants")
		p, members, held := NewPool(int(capacity)), make([]Member, tenants), make([][]Place, tenants)
		total := int64(0)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			i := rapid.IntRange(0, tenants-1).Draw(t, "who")
			m := &members[i]
			if leave := rapid.IntRange(0, len(held[i])).Draw(t, "leave"); rapid.Bool().Draw(t, "ends") {
				for _, place := range held[i][:leave] {
					p.Leave(m, place)
					total--
				}
				held[i] = held[i][leave:]
				continue
			}
			for range rapid.IntRange(1, 200).Draw(t, "burst") { // greedy: till it is refused
				share := p.Share(m)
				place := p.Enter(m)
				if place == NoPlace {
					if m.Held() < share {
						t.Fatalf("refused at %d of a share of %d", m.Held(), share)
					}
					break
				}
				held[i] = append(held[i], place)
				total++
			}
			if most := mostHeld(capacity, tenants); float64(total) > most {
				t.Fatalf("%d held of %d by %d tenants, more than %v", total, capacity, tenants, most)
			}
		}
		for i := range members {
			for _, place := range held[i] {
				p.Leave(&members[i], place)
			}
			if n := members[i].Held(); n != 0 {
				t.Fatalf("%d held after all left", n)
			}
		}
		if active, lent := p.Active(); active != 0 || lent != 0 {
			t.Fatalf("%d active and %d lent after all left", active, lent)
		}
	})
}

// mostHeld is half of the capacity, lent, and each tenant's greatest share in the worst order.
func mostHeld(capacity int64, tenants int) float64 {
	sum := math.Floor(float64(capacity) / 2)
	for j := range tenants {
		sum += float64(Share(capacity, int64(j+1)))
	}
	return sum
}

// TestOwnedHalfHoldsForManyTenants: what the comment of Pool says of 10,000 places.
func TestOwnedHalfHoldsForManyTenants(t *testing.T) {
	if got := mostHeld(10_000, 1200); got > 10_000 {
		t.Errorf("1,200 tenants can hold %v places", got)
	}
	if got := mostHeld(10_000, 5000); got > 10_000+5000 {
		t.Errorf("5,000 tenants can hold %v places", got)
	}
}

// TestLentPlacesEvenOut: of tenants that all want everything, each gets about the same once requests have come and gone.
func TestLentPlacesEvenOut(t *testing.T) {
	const capacity, tenants = 1000, 4
	p, members := NewPool(capacity), make([]Member, tenants)
	held := make([][]Place, tenants)
	fill := func(i int) {
		for {
			place := p.Enter(&members[i])
			if place == NoPlace {
				return
			}
			held[i] = append(held[i], place)
		}
	}
	fill(0) // takes all that one alone gets, before the others come
	if n := members[0].Held(); n < capacity/3 {
		t.Errorf("alone, a tenant holds only %d of %d", n, capacity)
	}
	for range 3000 { // every place ends in its turn, and everybody asks for more
		for i := range members {
			if len(held[i]) > 0 {
				p.Leave(&members[i], held[i][0])
				held[i] = held[i][1:]
			}
		}
		for i := tenants - 1; i >= 0; i-- {
			fill(i)
		}
	}
	least, most := int64(math.MaxInt64), int64(0)
	for i := range members {
		least, most = min(least, members[i].Held()), max(most, members[i].Held())
	}
	if float64(most) > 1.5*float64(least) {
		t.Errorf("the parts are between %d and %d", least, most)
	}
}

func TestPoolWithoutBound(t *testing.T) {
	p, m := NewPool(0), new(Member)
	for range 100 {
		if p.Enter(m) == NoPlace {
			t.Fatal("refused")
		}
		p.Leave(m, Owned)
	}
	if p.Share(m) != 0 {
		t.Error("a share of no bound")
	}
}

// TestPoolConcurrently: counts are exact when all is over, and nobody who is alone within its share is refused meanwhile.
func TestPoolConcurrently(t *testing.T) {
	p := NewPool(320) // a share of 20 for one, of 2 for ten
	var wg sync.WaitGroup
	members := make([]Member, 10)
	for i := range 20 {
		m := &members[i/2]
		wg.Go(func() {
			for range 2000 {
				place := p.Enter(m) // two of a tenant at a time, within a share of two
				if place == NoPlace {
					t.Error("refused within the share")
					return
				}
				p.Leave(m, place)
			}
		})
	}
	wg.Wait()
	if active, lent := p.Active(); active != 0 || lent != 0 {
		t.Errorf("%d active, %d lent at the end", active, lent)
	}
}

func BenchmarkPool(b *testing.B) {
	for _, tenants := range []int{1, 1000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			p, members := NewPool(10_000), make([]Member, tenants)
			for i := 0; b.Loop(); i++ {
				m := &members[i%tenants]
				p.Leave(m, p.Enter(m))
			}
		})
	}
}
