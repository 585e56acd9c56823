package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pin restricts this process to these cores, counted as Start does: all its threads, and so those that they make later. nil is all.
func Pin(cores []int) error {
	set, err := pick(cores)
	if err != nil {
		return err
	}
	// A thread that is not pinned yet may make another meanwhile: look again until nothing was left to do.
	for again := true; again; {
		if again, err = pinThreads(&set); err != nil {
			return fmt.Errorf("pin this process to cores %v: %w", cores, err)
		}
	}
	return nil
}

func pinThreads(set *unix.CPUSet) (changed bool, err error) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		did, err := pinThread(id, set)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

func pinThread(id int, set *unix.CPUSet) (changed bool, err error) {
	var has unix.CPUSet
	if err := unix.SchedGetaffinity(id, &has); errors.Is(err, unix.ESRCH) {
		return false, nil // it has ended
	} else if err != nil {
		return false, err
	}
	if has == *set {
		return false, nil
	}
	if err := unix.SchedSetaffinity(id, set); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, err
	}
	return true, nil
}
