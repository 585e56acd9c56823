package chaos

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"context"
)

// vitals are a replica's own numbers.
type vitals struct {
	goroutines, resident float64
}

func (v vitals) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f MiB", v.goroutines, v.resident/(1<<20))
}

// vitals asks every replica for its numbers.
func (f *fleet) vitals() map[string]vitals {
	out := make(map[string]vitals)
	for _, r := range f.replicas {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		got := send(ctx, http.DefaultClient, http.MethodGet, "http://"+r.metrics+"/metrics", nil)
		cancel()
		out[r.name] = vitals{goroutines: series(got.body, "go_goroutines"), resident: series(got.body, "process_resident_memory_bytes")}
	}
	return out
}

// series returns the value of a metric without labels.
func series(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err == nil {
				return v
			}
		}
	}
	return 0
}

// checkVitals waits until the replicas are as quiet as they were when the tenants had just been made: whatever a fault left
// running or in memory shows.
func (f *fleet) checkVitals(t *testing.T, fresh map[string]vitals) {
	var most vitals
	for _, v := range fresh {
		most.goroutines, most.resident = max(most.goroutines, v.goroutines), max(most.resident, v.resident)
	}
	limit := vitals{goroutines: 1.5*most.goroutines + 100, resident: 2*most.resident + 128<<20}
	for deadline := time.Now().Add(90 * time.Second); ; {
		now, over := f.vitals(), ""
		for name, v := range now {
			if v.goroutines == 0 || v.goroutines > limit.goroutines || v.resident > limit.resident {
				over += fmt.Sprintf("%s has %v; ", name, v)
			}
		}
		if over == "" {
			t.Logf("vitals: at the start %v, at the end %v", fresh, now)
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%swant at most %v (at the start: %v)", over, limit, fresh)
			return
		}
		<-time.After(time.Second)
	}
}
