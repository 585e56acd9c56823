package sandbox

import (
	"fmt"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// TestBooksStayWithinTheirBudget keeps the books of owners each of whom uses something in each hour, for 400 days and more.
func TestBooksStayWithinTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, tt := range []struct {
		owners              int
		budget              int64
		days, hours, months int // that are to be left at the end, at least
	}{
		{owners: 100, budget: 128 << 10, months: 12, hours: 3},
		{owners: 10, budget: 4 << 20, days: 385, hours: 7 * 24},
	} {
		t.Run(fmt.Sprintf("%d owners in %d KiB", tt.owners, tt.budget>>10), func(t *testing.T) {
			b, most := fill(tt.owners, tt.budget)
			if _, err := readBooks(stored(b)); err != nil {
				t.Error(err)
			}
			hours, days, months := count(b)
			t.Logf("%d bytes at the end, %d at most, in %d hours, %d days, %d months", b.bytes, most, hours, days, months)
			if most > tt.budget+tt.budget/8 {
				t.Errorf("%d bytes at most, want no more than the budget and an eighth", most)
			}
			if hours < tt.hours || days < tt.days || months < tt.months {
				t.Errorf("what is kept is coarser than %d hours, %d days and %d months", tt.hours, tt.days, tt.months)
			}
		})
	}
}

// BenchmarkBooks keeps the books of 1,000 owners for 410 days, in 4 MiB: a quarter of what a tenant may store by default.
func BenchmarkBooks(b *testing.B) {
	for b.Loop() {
		books, most := fill(1000, 4<<20)
		hours, days, months := count(books)
		b.ReportMetric(float64(most), "bytes-at-most")
		b.ReportMetric(float64(hours), "hours")
		b.ReportMetric(float64(days), "days")
		b.ReportMetric(float64(months), "months")
		b.ReportMetric(float64(b.Elapsed().Microseconds())/(410*24), "µs/bill")
	}
}

func count(b *books) (hours, days, months int) {
	d := b.draft()
	return len(d.spans(hourly)), len(d.spans(daily)), len(d.spans(monthly))
}

// fill bills every owner in each of 410 days' hours, and tidies as long as there is something to tidy, a step for each bill.
func fill(owners int, budget int64) (b *books, most int64) {
	b = newBooks()
	payers := make([]Payer, owners)
	for o := range payers {
		payers[o] = Payer{fmt.Sprintf("user:corp-sso/%08x@example.com", uint32(o)*2654435761), 1_700_000_000}
	}
	for h := range 410 * 24 {
		now := noon().Add(time.Duration(h) * time.Hour)
		d := b.draft()
		for o, p := range payers {
			d.add(spanOf(hourly, now), p, someUse(h*o))
		}
		for len(d.changed) > 0 {
			b.apply(d.writes(), d.when)
			most = max(most, b.bytes)
			d = b.draft()
			d.tidy(now, budget)
		}
	}
	return b, most
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
