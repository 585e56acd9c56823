package proc

import (
	"bytes"
	"strconv"
)

// Host is what the processors of this machine did since it started, in ticks of its clock.
type Host struct {
	stolen, total uint64
}

// Stolen returns the share of the processors' time that the host of a virtual machine gave to others since was, 0 to 1; 0 where
// that is not known.
func (h Host) Stolen(was Host) float64 {
	if h.total <= was.total || h.stolen < was.stolen {
		return 0
	}
	return float64(h.stolen-was.stolen) / float64(h.total-was.total)
}

// parseHost reads the first line of /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; what guests took
// is part of user.
func parseHost(stat []byte) (h Host) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return Host{}
	}
	for i, f := range fields[1:9] {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return Host{}
		}
		h.total += n
		if i == 7 {
			h.stolen = n
		}
	}
	return h
}
