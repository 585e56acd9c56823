package peer

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// childrenOf reads who was started by a process.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for f := range strings.FieldsSeq(string(b)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// cpusOf reads on which cores a process may run.
func cpusOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "Cpus_allowed_list:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// lives tells whether a process group has a member that has not ended. Those that ended and that nobody has waited for do not count.
func lives(group int) bool {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, d := range all {
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue // no process, or one that has ended
		}
		// pid (name) state ppid pgrp …
		_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
		f := strings.Fields(rest)
		if len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" {
			return true
		}
	}
	return false
}
