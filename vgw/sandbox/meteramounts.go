package sandbox

import (
	"math"
	"time"
)

// Amounts is use that was added up. All of it is whole numbers, so that sums are exact, whatever their order.
type Amounts struct {
	Millis     int64 // milliseconds of runs, from when a process ran until it ended
	Measured   int64 // of them, those whose use of CPU and memory was measured
	CPU        int64 // set aside: thousandths of a core, times milliseconds
	CPUUsed    int64 // used, where it was measured, and else what was set aside
	Memory     int64 // likewise: MiB (rounded up for each run), times milliseconds
	MemoryUsed int64
	GPU        int64 // set aside, of all kinds together: GPUs, times milliseconds
	Storage    int64 // set aside: MiB, times milliseconds
	Sessions   int64 // exec and log streams that were opened
	Bytes      int64 // that went through them
}

// numAmounts is the number of fields, in the order in which they are stored.
const numAmounts = 10

func (a *Amounts) fields() [numAmounts]*int64 {
	return [numAmounts]*int64{&a.Millis, &a.Measured, &a.CPU, &a.CPUUsed, &a.Memory, &a.MemoryUsed, &a.GPU, &a.Storage, &a.Sessions, &a.Bytes}
}

// add adds b. What would overflow stays at the greatest number there is.
func (a *Amounts) add(b Amounts) {
	to, from := a.fields(), b.fields()
	for i := range to {
		if *from[i] > math.MaxInt64-max(*to[i], 0) {
			*to[i] = math.MaxInt64
			continue
		}
		*to[i] += *from[i]
	}
}

// Seconds is the time of runs.
func (a Amounts) Seconds() float64 { return float64(a.Millis) / 1e3 }

// MeasuredSeconds is the part of Seconds in which use was measured.
func (a Amounts) MeasuredSeconds() float64 { return float64(a.Measured) / 1e3 }

// CoreSeconds returns what was set aside of the CPU, and what was used.
func (a Amounts) CoreSeconds() (requested, used float64) {
	return float64(a.CPU) / 1e6, float64(a.CPUUsed) / 1e6
}

// MemoryGiBSeconds returns what was set aside of the memory, and what was used.
func (a Amounts) MemoryGiBSeconds() (requested, used float64) {
	return float64(a.Memory) / 1024e3, float64(a.MemoryUsed) / 1024e3
}

// GPUSeconds is what was set aside of GPUs.
func (a Amounts) GPUSeconds() float64 { return float64(a.GPU) / 1e3 }

// StorageGiBSeconds is what was set aside of storage.
func (a Amounts) StorageGiBSeconds() float64 { return float64(a.Storage) / 1024e3 }

const mebibyte = 1 << 20

func mebibytes(n int64) int64 { return (max(n, 0) + mebibyte - 1) / mebibyte }

// setAside is what a run with these resources takes in so many milliseconds, as far as nothing is measured.
func setAside(r Resources, millis int64) Amounts {
	gpus := int64(0)
	for _, n := range r.GPUs {
		gpus += max(n, 0)
	}
	cpu, memory := max(r.CPU, 0)*millis, mebibytes(r.Memory)*millis
	return Amounts{
		Millis: millis, CPU: cpu, CPUUsed: cpu, Memory: memory, MemoryUsed: memory, GPU: gpus * millis, Storage: mebibytes(r.Storage) * millis,
	}
}

// take subtracts so many milliseconds of a run with these resources. If some of what is here was measured, what was used is lowered
// in proportion: of a part of it nobody knows more. It can leave less than nothing where a longer period has the other part of
// the same time (see draft.take): the sum of both is right.
func (a *Amounts) take(r Resources, millis int64) {
	gone := setAside(r, millis)
	if a.Measured > 0 && a.Millis > 0 {
		part := min(1, float64(millis)/float64(a.Millis))
		share := func(v int64) int64 { return int64(math.Round(float64(v) * part)) }
		gone.Measured, gone.CPUUsed, gone.MemoryUsed = share(a.Measured), share(a.CPUUsed), share(a.MemoryUsed)
	}
	from, less := a.fields(), gone.fields()
	for i := range from {
		*from[i] -= *less[i]
	}
}

// unbilled returns from when on a run is not accounted for; known is false if it never ran.
func unbilled(s *Sandbox) (from time.Time, known bool) {
	switch {
	case s.Run.Started.IsZero():
		return time.Time{}, false
	case s.Billed != "" && s.Billed == s.Run.Nonce:
		return s.Accounted, true
	}
	return whole(s.Run.Started), true
}

// endOf returns the end of a run that has ended.
func endOf(s *Sandbox) time.Time { return whole(latest(s.Run.Started, s.Run.Ended)) }

// whole cuts a time to milliseconds, so that the parts of a run add up to it.
func whole(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
