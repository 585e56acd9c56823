package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, etcdtest.Leaks()...)
}

func ops(list ...op) []op {
	for i := range list {
		list[i].call, list[i].ret = list[i].call*time.Second, list[i].ret*time.Second
	}
	return list
}

// TestHistories: what can be is accepted, what cannot be is found, and what is lost is said to be.
func TestHistories(t *testing.T) {
	for _, tc := range []struct {
		name string
		ops  []op
		ok   bool
		lost bool
	}{
		{"one after the other", ops(op{kind: create, outcome: done, call: 1, ret: 2}, op{kind: read, outcome: done, call: 3, ret: 4}), true, false},
		{"a lost write", ops(op{kind: create, outcome: done, call: 1, ret: 2}, op{kind: read, outcome: not, call: 3, ret: 4}), false, true},
		{"a write that comes back", ops(op{kind: create, outcome: done, call: 1, ret: 2}, op{kind: remove, outcome: done, call: 3, ret: 4}, op{kind: read, outcome: done, call: 5, ret: 6}), false, true},
		{"a stale read in the middle", ops(op{kind: create, outcome: done, call: 1, ret: 2}, op{kind: read, outcome: not, call: 3, ret: 4}, op{kind: read, outcome: done, call: 5, ret: 6}), false, false},
		{"created twice", ops(op{kind: create, outcome: done, call: 1, ret: 2}, op{kind: create, outcome: done, call: 3, ret: 4}), false, false},
		{"two at once, one wins", ops(op{kind: create, outcome: done, call: 1, ret: 4}, op{kind: create, outcome: not, call: 2, ret: 3}), true, false},
		{"unanswered, and happened late", ops(op{kind: create, outcome: unknown, call: 1, ret: 2}, op{kind: read, outcome: not, call: 3, ret: 4}, op{kind: read, outcome: done, call: 5, ret: 6}), true, false},
		{"unanswered, and never happened", ops(op{kind: create, outcome: unknown, call: 1, ret: 2}, op{kind: read, outcome: not, call: 3, ret: 4}), true, false},
		{"unanswered removal explains absence", ops(op{kind: create, outcome: done, call: 2, ret: 3}, op{kind: remove, outcome: unknown, call: 1, ret: 2}, op{kind: read, outcome: not, call: 4, ret: 5}), true, false},
		{"there before anybody made it", ops(op{kind: create, outcome: not, call: 1, ret: 2}), false, false},
		{"refused does not count", ops(op{kind: create, outcome: refusal, call: 1, ret: 2}, op{kind: read, outcome: not, call: 3, ret: 4}), true, false},
	} {
		if got := linearizable(tc.ops, time.Second); (got == "Ok") != tc.ok {
			t.Errorf("%s: linearizable: %s, want ok: %v", tc.name, got, tc.ok)
		}
		if got := lost(tc.ops); (got != "") != tc.lost {
			t.Errorf("%s: lost: %q, want %v", tc.name, got, tc.lost)
		}
	}
}

func put(key, value string, lease int64) edit {
	return edit{key: key, value: []byte(value), lease: lease}
}

func audited(replica, id string) edit {
	return put("a/@"+replica+"/t1/"+id, fmt.Sprintf(`{"v":1,"entry":{"id":%q,"tenant":"t1","replica":%q}}`, id, replica), 0)
}

// TestFence: a change by another than the owner is found, as is an owner that does not live.
func TestFence(t *testing.T) {
	start := [][]edit{
		{put("n/r0", "{}", 10)}, {put("n/r1", "{}", 11)}, {put("o/t1", `{"replica":"r0"}`, 10)},
	}
	commit := func(replica string) []edit {
		return []edit{put("t/t1/server/a", "{}", 0), put("t/t1/_/0", `{"entry":"e"}`, 0), audited(replica, "e")}
	}
	for _, tc := range []struct {
		name string
		then [][]edit
		want string // a part of the one complaint
	}{
		{"by the owner", [][]edit{commit("r0")}, ""},
		{"by another", [][]edit{commit("r1")}, "r1 changes t/t1/server/a, of which r0 is the owner"},
		{"after a hand-off", [][]edit{{put("o/t1", `{"replica":"r1"}`, 11)}, commit("r1")}, ""},
		{"by the former owner", [][]edit{{put("o/t1", `{"replica":"r1"}`, 11)}, commit("r0")}, "of which r1 is the owner"},
		{"owned by nobody", [][]edit{{edit{key: "o/t1", gone: true}}, commit("r0")}, "nobody owns t1"},
		{"without a record", [][]edit{{put("t/t1/server/a", "{}", 0)}}, "without an audit entry"},
		{"a record of another tenant", [][]edit{{put("t/t1/server/a", "{}", 0), put("a/@r0/t2/e", `{"entry":{"id":"e","tenant":"t2","replica":"r0"}}`, 0)}}, "without an audit entry"},
		{"another's marker", [][]edit{{put("t/t1/_/0", `{"entry":"f"}`, 0), audited("r0", "e")}}, `names entry "f"`},
		{"claimed on a lease that is over", [][]edit{{put("n/r1", "{}", 12)}, {put("o/t1", `{"replica":"r1"}`, 11)}}, "not that of its session"},
		{"claimed by the dead", [][]edit{{edit{key: "n/r1", gone: true}}, {put("o/t1", `{"replica":"r1"}`, 11)}}, "not that of its session"},
	} {
		f := newFence()
		for i, edits := range append(start[:len(start):len(start)], tc.then...) {
			f.revision(int64(i+1), edits)
		}
		got := strings.Join(f.faults, "\n")
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) || len(f.faults) > 1 {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestTwice: two changes under one condition are found.
func TestTwice(t *testing.T) {
	good := []recordPut{{condition: "1", outcome: done, etag: "2"}, {condition: "1", outcome: refusal}, {condition: "2", outcome: done, etag: "3"}}
	if s := twice(good); s != "" {
		t.Error(s)
	}
	if s := twice(append(good, recordPut{condition: "2", outcome: done})); s == "" {
		t.Error("an overwritten change is not found")
	}
}

// TestCanary: a name of another tenant in an answer is found, wherever it is.
func TestCanary(t *testing.T) {
	l := newLoad(&fleet{settings: settings{tenants: probed}, clock: time.Now()})
	l.examine(1, "a list", answer{status: 200, body: []byte(`{"items":[{"name":"c-t001-s0"}]}`)})
	if len(l.wrong) > 0 {
		t.Errorf("complains of its own name: %v", l.wrong)
	}
	l.examine(1, "a list", answer{status: 200, body: []byte(`{"items":[{"name":"c-t002-s0"}]}`)})
	l.examine(1, "a place", answer{status: 201, header: map[string][]string{"Location": {"/x/c-t002-s0-1"}}})
	l.examine(1, "a failure", answer{status: 500})
	if len(l.wrong) != 3 {
		t.Errorf("found %v, want three", l.wrong)
	}
}
