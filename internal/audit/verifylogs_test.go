package audit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestVerifyLogs: the logs of several replicas verify together; a log that was left out, a chain that was removed from one, and a
// copy are found.
func TestVerifyLogs(t *testing.T) {
	l := newLAN(t, "r1", "r2")
	heads := make(map[string]Head)
	for range 10 {
		for name, dir := range l.dirs {
			for _, id := range []string{"team-a", "team-b"} {
				if id == "team-a" {
					l.write(dir, name, "team-a")
				} else {
					l.write(dir, name, "team-b")
				}
				heads[ChainName(id, name)] = l.heads[dir+ChainName(id, name)]
			}
		}
	}
	path := func(name string) string { return filepath.Join(l.dirs[name], "audit.jsonl") }
	whole := func(name string) []byte {
		b, err := os.ReadFile(path(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r2 := whole("r2")
	without := slices.DeleteFunc(strings.SplitAfter(string(r2), "\n"), func(s string) bool { return strings.Contains(s, "team-b@r2") })
	for _, c := range []struct {
		name string
		logs []string
		r2   []byte
		want string
	}{
		{"all", []string{"r1", "r2"}, r2, ""},
		{"one left out", []string{"r1"}, r2, "2 anchored chains of replica r2 are in none"},
		{"a chain removed", []string{"r1", "r2"}, []byte(strings.Join(without, "")), "1 anchored chains of replica r2 are in none"},
		{"cut", []string{"r1", "r2"}, r2[:len(r2)-300], "cut"},
		{"a copy", []string{"r1", "r2", "r1"}, r2, "in more than one log"},
		{"moved to another", []string{"r1", "r2"}, append(slices.Clone(r2), whole("r1")[:1000]...), "in more than one log"},
	} {
		if err := os.WriteFile(path("r2"), c.r2, 0o600); err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, name := range c.logs {
			paths = append(paths, path(name))
		}
		rep, err := VerifyLogs(paths, VerifyOptions{Heads: heads})
		if err != nil {
			t.Fatal(err)
		}
		problems := strings.Join(rep.Problems(), "\n")
		if rep.OK != (c.want == "") || !strings.Contains(problems, c.want) {
			t.Errorf("%s: OK=%v, problems:\n%s\nwant %q", c.name, rep.OK, problems, c.want)
		}
	}
	if logs, err := FolderLogs(l.dirs["r1"], ".jsonl"); err != nil || !slices.Equal(logs, []string{path("r1")}) {
		t.Errorf("FolderLogs: %v, %v", logs, err)
	}
	if _, err := FolderLogs(t.TempDir(), ".jsonl"); err == nil {
		t.Error("FolderLogs of an empty folder: no error")
	}
}
