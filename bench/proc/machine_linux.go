package proc

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/polygate/polygate/bench/result"
)

// Machine describes where we run. What cannot be found out is "unknown" or 0.
func Machine() result.Machine {
	return result.Machine{
		OS:     osName(read("/etc/os-release"), kernel()),
		CPU:    cpuName(read("/proc/cpuinfo")),
		Cores:  Cores(),
		Memory: memory(read("/proc/meminfo"), read("/sys/fs/cgroup/memory.max")),
		Load:   loadAverage(read("/proc/loadavg")),
	}
}

// Now reads what the processors did until now.
func Now() Host { return parseHost(read("/proc/stat")) }

func read(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return b
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

func osName(release []byte, kernel string) string {
	for line := range bytes.Lines(release) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`) + ", " + kernel
		}
	}
	return kernel
}

// cpuName is the first processor's; ARM has no model name, only numbers of implementer and part.
func cpuName(info []byte) string {
	found := map[string]string{}
	for line := range bytes.Lines(info) {
		k, v, ok := strings.Cut(string(line), ":")
		if k = strings.TrimSpace(k); ok && found[k] == "" {
			found[k] = strings.TrimSpace(v)
		}
	}
	if name := found["model name"]; name != "" {
		return name
	}
	if part := found["CPU part"]; part != "" {
		return "ARM implementer " + found["CPU implementer"] + " part " + part
	}
	return "unknown"
}

// memory is the machine's, or what our container may have of it.
func memory(meminfo, limit []byte) int64 {
	total := kilobytes(meminfo, "MemTotal:")
	n, err := strconv.ParseInt(strings.TrimSpace(string(limit)), 10, 64)
	if err == nil && n > 0 && (total == 0 || n < total) {
		return n
	}
	return total
}

func loadAverage(b []byte) float64 {
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}
