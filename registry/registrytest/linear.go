package registrytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// How much testLinear does.
const (
	linearTenants = 3
	linearClients = 6 // two on each of three replicas
	linearOps     = 40
	linearTime    = 4 * time.Second // so long at most
)

// recordOp is one call of the record API.
type recordOp struct {
	kind   string // "create", "update", "delete" or "get"
	tenant tenant.ID
	value  string // that it writes
}

// recordAnswer is what came back.
type recordAnswer struct {
	kind  string // "ok", "absent", "exists", "unknown": it was applied once, or not at all
	value string // as it was before an update, or as it is
}

// recordModel is what the record API promises of one tenant: the state is its display name, or absent.
func recordModel() porcupine.Model {
	const absent = "-"
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{absent} },
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[tenant.ID][]porcupine.Operation{}
			for i := range history {
				id := history[i].Input.(recordOp).tenant
				parts[id] = append(parts[id], history[i])
			}
			var out [][]porcupine.Operation
			for _, p := range parts {
				out = append(out, p)
			}
			return out
		},
		Step: func(state, input, output any) []any {
			return stepRecord(absent, state.(string), input.(recordOp), output.(recordAnswer))
		},
	}
	return model.ToModel()
}

// stepRecord returns what a tenant can be after a call with such an answer.
func stepRecord(absent, state string, op recordOp, got recordAnswer) []any {
	exists := state != absent
	next, want := state, recordAnswer{kind: "ok"}
	switch {
	case op.kind == "create" && exists:
		want.kind = "exists"
	case op.kind == "create":
		next = op.value
	case !exists && op.kind == "delete" && got.kind == "ok":
		// Its own first attempt may have done it, or someone else: it is gone and recorded either way.
	case !exists:
		want.kind = "absent"
	case op.kind == "delete":
		next = absent
	case op.kind == "update":
		next, want.value = op.value, state
	case op.kind == "get":
		want.value = state
	}
	if got.kind == "unknown" {
		return []any{state, next}
	}
	if got != want {
		return nil
	}
	return []any{next}
}

// history collects calls and their answers.
type history struct {
	mu    sync.Mutex // guards ops
	begun time.Time
	ops   []porcupine.Operation
}

func (h *history) add(client int, op recordOp, got recordAnswer, call int64) {
	done := int64(time.Since(h.begun))
	if got.kind == "unknown" {
		done = int64(time.Hour) // it may yet be applied
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: got, Return: done})
}

// call makes one call.
func (h *history) call(t *testing.T, r *Replica, client int, op recordOp) {
	call := int64(time.Since(h.begun))
	var got recordAnswer
	var err error
	switch op.kind {
	case "create":
		_, err = r.CreateTenant(t.Context(), Record(string(op.tenant), func(rec *tenant.Record) { rec.DisplayName = op.value }), Entry("", "tenant.create"))
	case "delete":
		err = r.DeleteTenant(t.Context(), op.tenant, 0, Entry("", "tenant.delete"))
	case "get": // an update that changes nothing reads what is stored now
		_, err = r.UpdateTenant(t.Context(), op.tenant, 0, func(rec *tenant.Record) error { got.value = rec.DisplayName; return nil }, Entry("", "tenant.get"))
	default:
		_, err = r.UpdateTenant(t.Context(), op.tenant, 0, func(rec *tenant.Record) error {
			got.value, rec.DisplayName = rec.DisplayName, op.value
			return nil
		}, Entry("", "tenant.update"))
	}
	kind := answerKind(err)
	if kind == "" {
		t.Errorf("%s of %s: %v", op.kind, op.tenant, err)
	}
	if kind != "ok" {
		got.value = ""
	}
	got.kind = kind
	h.add(client, op, got, call)
}

// answerKind says what an answer tells of the state; "" if it must not come.
func answerKind(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, registry.ErrUnknown), fault.Is(err, fault.Unavailable):
		return "unknown"
	case fault.Is(err, fault.NotFound):
		return "absent"
	case fault.Is(err, fault.Conflict):
		return "exists"
	}
	return ""
}

// runHistory has clients of three replicas create, change, read and delete the same few tenants, while answers and
// requests get lost.
func runHistory(t *testing.T, b registry.Backend, plant func(registry.Backend) registry.Backend) []porcupine.Operation {
	h := &history{begun: time.Now()}
	ctx, cancel := context.WithTimeout(t.Context(), linearTime)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 3 {
		lossy := &Faulty{Backend: plant(b)}
		r := Start(t, lossy, fmt.Sprint("r", i))
		defer r.Stop()
		for j := range linearClients / 3 {
			client := i + 3*j
			clients.Go(func() {
				for n := 0; n < linearOps && ctx.Err() == nil; n++ {
					switch rand.IntN(12) { //nolint:gosec // not a secret
					case 0:
						lossy.LoseAnswers(1)
					case 1:
						lossy.Drop(1)
					}
					h.call(t, r, client, randomOp(fmt.Sprintf("c%d-%d", client, n)))
				}
			})
		}
	}
	clients.Wait()
	return h.ops
}

func randomOp(value string) recordOp {
	kinds := []string{"create", "create", "update", "update", "update", "get", "get", "get", "delete"}
	return recordOp{
		kind:   kinds[rand.IntN(len(kinds))],                             //nolint:gosec // not a secret
		tenant: tenant.ID(fmt.Sprint("alpha", rand.IntN(linearTenants))), //nolint:gosec // not a secret
		value:  value,
	}
}

// testLinear: what three replicas answer about routing records, over lost requests and answers, could have been answered
// by one that does one thing after another (X46). A replica that reads what is no longer so is found out.
func testLinear(t *testing.T, b Backend) {
	for _, c := range []struct {
		name  string
		plant func(registry.Backend) registry.Backend
		want  porcupine.CheckResult
	}{
		{"honest", func(b registry.Backend) registry.Backend { return b }, porcupine.Ok},
		{"stale", func(b registry.Backend) registry.Backend { return Stale{b} }, porcupine.Illegal},
	} {
		t.Run(c.name, func(t *testing.T) {
			ops := runHistory(t, b, c.plant)
			kinds := map[string]int{}
			for i := range ops {
				kinds[ops[i].Input.(recordOp).kind+" "+ops[i].Output.(recordAnswer).kind]++
			}
			t.Logf("%d calls: %v", len(ops), kinds)
			if got := porcupine.CheckOperationsTimeout(recordModel(), ops, 20*time.Second); got != c.want {
				t.Errorf("the history of %d calls is %v, want %v", len(ops), got, c.want)
			}
		})
		mustTxn(t, b, &registry.Txn{DeletePrefixes: []string{"x/", "a/"}})
	}
}
