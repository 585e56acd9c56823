// Package proc starts processes on chosen cores and measures what they cost: processor time with all their descendants, and memory
// resident. It knows nothing of what the processes are. It works on Linux; elsewhere each function says that it cannot.
package proc

import "time"

// Usage is what processes have used since they began, and hold now.
type Usage struct {
	CPU       time.Duration // user and system time, of ended children too
	RSS       int64         // bytes resident
	PSS       int64         // bytes resident, shared pages divided among those that share them
	Processes int           // that live
}
