package audit

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LogsReport is what VerifyLogs found.
type LogsReport struct {
	OK   bool               `json:"ok"`
	Logs map[string]*Report `json:"logs"` // by the path of the active file
	// Absent are anchored chains of which no log has a record or a list: it was not given, or they were removed.
	Absent []string `json:"absent,omitempty"`
	// Twice are chains that more than one log has: each is written by one replica into one log.
	Twice []string `json:"twice,omitempty"`
}

// Problems returns a line of text for each thing that makes the report not OK.
func (r *LogsReport) Problems() (out []string) {
	for _, path := range slices.Sorted(maps.Keys(r.Logs)) {
		for _, p := range r.Logs[path].Problems() {
			out = append(out, path+": "+p)
		}
	}
	for _, chain := range r.Twice {
		out = append(out, fmt.Sprintf("chain %s is in more than one log: one of them is a copy, or forged", chain))
	}
	away := make(map[string]int)
	for _, chain := range r.Absent {
		_, replica := SplitChain(chain)
		away[replica]++
	}
	for _, replica := range slices.Sorted(maps.Keys(away)) {
		if replica == "" {
			out = append(out, fmt.Sprintf("%d anchored chains without a replica's name are in none of the logs: name the folder of the replica that was the only one once", away[replica]))
		} else {
			out = append(out, fmt.Sprintf("%d anchored chains of replica %s are in none of the logs: name its folder, too", away[replica], replica))
		}
	}
	return out
}

// VerifyLogs checks the logs of several replicas, each with its segments, against the heads of all. A chain belongs to the log
// that has it; an anchored one that is in none is a fault, or a replica's log could be left out unseen.
func VerifyLogs(paths []string, opts VerifyOptions) (*LogsReport, error) {
	out := &LogsReport{OK: true, Logs: make(map[string]*Report)}
	in := make(map[string]int)
	for _, path := range paths {
		o := opts
		o.owns = true
		rep, err := VerifyLog(path, o)
		if err != nil {
			return nil, err
		}
		out.Logs[path] = rep
		out.OK = out.OK && rep.OK
		for chain := range rep.Chains {
			if in[chain]++; in[chain] == 2 {
				out.Twice = append(out.Twice, chain)
			}
		}
	}
	for chain, head := range opts.Heads {
		if head.Seq > 0 && in[chain] == 0 {
			out.Absent = append(out.Absent, chain)
		}
	}
	slices.Sort(out.Absent)
	slices.Sort(out.Twice)
	out.OK = out.OK && len(out.Absent)+len(out.Twice) == 0
	return out, nil
}

// FolderLogs returns the active files of all logs in a folder, as a query reads them.
func FolderLogs(dir, ext string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit logs: %w", err)
	}
	logs := make(map[string]bool)
	for _, e := range all {
		stem, ok := strings.CutSuffix(e.Name(), ext)
		if s, _, closed := parseSegment(e.Name(), ext); closed {
			stem = s
		}
		if ok && stem != "" && e.Type().IsRegular() {
			logs[filepath.Join(dir, stem+ext)] = true
		}
	}
	if len(logs) == 0 {
		return nil, fmt.Errorf("audit logs: %s holds no file *%s", dir, ext)
	}
	return slices.Sorted(maps.Keys(logs)), nil
}
