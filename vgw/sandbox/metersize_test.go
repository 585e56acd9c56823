package sandbox

import (
	"fmt"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// TestBooksStayWithinTheirBudget keeps the books of 1,000 owners for 400 days and more, each of whom uses something in each hour.
func TestBooksStayWithinTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, tt := range []struct {
		owners              int
		budget              int64
		days, hours, months int // that are to be left at the end, at least
	}{
		{owners: 1000, budget: 4 << 20, months: 12, days: 9, hours: 12},
		{owners: 100, budget: 128 << 10, months: 12, hours: 3},
		{owners: 20, budget: 4 << 20, months: 0, days: 385, hours: 7 * 24},
	} {
		t.Run(fmt.Sprintf("%d owners in %d KiB", tt.owners, tt.budget>>10), func(t *testing.T) {
			b, most, took := fill(t, tt.owners, tt.budget)
			d := b.draft()
			hours, days, months := len(d.spans(hourly)), len(d.spans(daily)), len(d.spans(monthly))
			t.Logf("%d bytes at the end, %d at most, in %d hours, %d days, %d months; %v for a bill of all", b.bytes, most, hours, days, months, took)
			if most > tt.budget+tt.budget/8 {
				t.Errorf("%d bytes at most, want no more than the budget and an eighth", most)
			}
			if hours < tt.hours || days < tt.days || months < tt.months {
				t.Errorf("what is kept is coarser than %d hours, %d days and %d months", tt.hours, tt.days, tt.months)
			}
		})
	}
}

// fill bills every owner in each of 410 days' hours, and tidies as long as there is something to tidy.
func fill(t *testing.T, owners int, budget int64) (b *books, most int64, took time.Duration) {
	t.Helper()
	b = newBooks()
	for h := range 410 * 24 {
		now, begun := noon().Add(time.Duration(h)*time.Hour), time.Now()
		d := b.draft()
		for o := range owners {
			d.add(spanOf(hourly, now), Payer{fmt.Sprintf("user:corp-sso/%08x@example.com", uint32(o)*2654435761), 1_700_000_000}, someUse(h*o))
		}
		for len(d.changed) > 0 {
			d.tidy(now, budget)
			b.apply(d.writes(), d.when)
			d = b.draft()
			d.tidy(now, budget)
		}
		took, most = took+time.Since(begun), max(most, b.bytes)
	}
	if _, err := readBooks(stored(b)); err != nil {
		t.Error(err)
	}
	return b, most, took / (410 * 24)
}

func someUse(n int) Amounts {
	a := setAside(Resources{CPU: 500, Memory: 512 << 20, Storage: 1 << 30}, 3_600_000-int64(n%60_000))
	a.Measured, a.CPUUsed, a.MemoryUsed = a.Millis, a.CPU/3, a.Memory/2+int64(n)
	a.Sessions, a.Bytes = int64(n%7), int64(n%100_000)
	return a
}

func stored(b *books) (all []tenant.Object) {
	for id, value := range b.of {
		all = append(all, tenant.Object{Kind: KindPeriod, ID: id, Value: value})
	}
	return all
}

func TestOwnersBeyondThePeriodAreOthers(t *testing.T) {
	p := newSheet()
	for i := range 20_000 {
		p.add(Payer{Owner: fmt.Sprintf("user:corp-sso/%030d", i)}, Amounts{Millis: 1})
	}
	var sum int64
	for _, a := range p.of {
		sum += a.Millis
	}
	if n := len(p.encode()); n > maxPeriod || sum != 20_000 || p.row(Payer{Owner: Others}).Millis == 0 {
		t.Errorf("%d bytes, %d in sum, %+v of others", n, sum, p.row(Payer{Owner: Others}))
	}
}
