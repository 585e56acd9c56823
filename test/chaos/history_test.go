package chaos

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// What is done to an object.
type opKind string

const (
	create opKind = "create"
	remove opKind = "remove"
	read   opKind = "read"
)

// What came of it.
type outcome string

const (
	done    outcome = "done"    // created, removed, or read and there
	not     outcome = "not"     // it was there already, or was not there
	unknown outcome = "unknown" // no answer, or one that says nothing: it happened, happens yet, or never does
	refusal outcome = "refused" // it did not happen, for a reason that is not the object's
)

// op is one operation on one object.
type op struct {
	kind      opKind
	outcome   outcome
	call, ret time.Duration // since the run began
	status    int
	request   string // X-Request-Id, which the audit record has too
	replica   string
	note      string
}

func (o op) String() string {
	return fmt.Sprintf("%9.3f..%9.3f %-6s %-7s %d %s %s %s", o.call.Seconds(), o.ret.Seconds(), o.kind, o.outcome, o.status, o.replica, o.request, o.note)
}

// history is all that was done to one object, of one name, which is used for a while and then never again: so that few
// operations without an answer are open at any time, each of which doubles the work of the checker.
type history struct {
	tenant int
	name   string
	mu     sync.Mutex // guards what follows
	ops    []op
	doubts int
}

func (h *history) add(o op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.outcome == unknown && o.kind != read {
		h.doubts++
	}
	h.ops = append(h.ops, o)
}

// full says that the object has had its day.
func (h *history) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops) >= 250 || h.doubts >= 6
}

// presence is the model of an object: it is there, or not. An operation without an answer may take effect at any later
// moment; one that never does is one that does after all others.
func presence() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return false },
		Step: func(state, input, output any) (bool, any) {
			there, kind, out := state.(bool), input.(opKind), output.(outcome)
			after := kind == create || kind == read && there
			if kind == read {
				return there == (out == done), there
			}
			switch out {
			case done:
				return there != after, after
			case not:
				return there == after, there
			default:
				return true, after
			}
		},
	}
}

// forever is the end of an operation without an answer.
const forever = time.Duration(1<<62 - 1)

// linearizable says whether the operations could have happened one after the other, each between its call and its answer.
func linearizable(ops []op, limit time.Duration) porcupine.CheckResult {
	var in []porcupine.Operation
	for i, o := range ops {
		if o.outcome == refusal || o.kind == read && o.outcome == unknown {
			continue
		}
		end := o.ret
		if o.outcome == unknown {
			end = forever
		}
		in = append(in, porcupine.Operation{ClientId: i, Input: o.kind, Output: o.outcome, Call: int64(o.call), Return: int64(end)})
	}
	return porcupine.CheckOperationsTimeout(presence(), in, limit)
}

// lost compares the last read with what was acknowledged: it says what is wrong where the last acknowledged change is not
// there, and no other change can have undone it. linearizable finds the same and more; this one says it in plain words.
func lost(ops []op) string {
	last, final := -1, -1
	for i, o := range ops {
		switch {
		case o.kind == read && o.outcome != unknown && o.outcome != refusal:
			if final < 0 || o.call > ops[final].call {
				final = i
			}
		case o.kind != read && o.outcome == done:
			if last < 0 || o.ret > ops[last].ret {
				last = i
			}
		}
	}
	if last < 0 || final < 0 || ops[final].call < ops[last].ret {
		return ""
	}
	for i, o := range ops {
		if i != last && o.kind != read && (o.outcome == unknown || o.outcome == done && o.ret > ops[last].call) {
			return "" // perhaps that one was last
		}
	}
	if there := ops[final].outcome == done; there != (ops[last].kind == create) {
		return fmt.Sprintf("acknowledged and not so in the end: %v, read: %v", ops[last], ops[final])
	}
	return ""
}

// sorted returns the operations in the order of their calls.
func (h *history) sorted() []op {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.ops)
	slices.SortFunc(out, func(a, b op) int { return int(a.call - b.call) })
	return out
}

// judge says what an answer means for an object.
func judge(kind opKind, a answer) outcome {
	switch {
	case errors.Is(a.err, errNobody):
		return refusal
	case a.err != nil || a.status >= 500:
		return unknown
	case a.status == 200 && kind == read, a.status == 201 && kind == create, a.status == 204 && kind == remove:
		return done
	case a.status == 409 && kind == create, a.status == 404 && kind != create:
		return not
	}
	return refusal
}
