package sandboxtest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

func createOnce(b *bench) {
	t := b.make(b.task("sleep"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			again := t
			again.UID = ""
			if uid, err := b.d.Create(b.ctx, again); err != nil || uid != t.UID {
				b.t.Errorf("create again: UID %q, %v; want %q", uid, err, t.UID)
			}
		})
	}
	wg.Wait()
	other := b.task("sleep")
	other.Sandbox = t.Sandbox
	if other = b.make(other); other.UID == t.UID {
		b.t.Error("another run of the sandbox has the same UID")
	}
}

func lives(b *bench) {
	before := time.Now().Add(-time.Minute) // clocks of nodes differ a little
	t := b.run("sleep")
	o, _ := b.see.now(t.Nonce)
	if o.UID != t.UID || o.Sandbox != t.Sandbox || o.Started.Before(before) || o.Deleting {
		b.t.Errorf("running: %+v, want UID %s of %s", o, t.UID, t.Sandbox)
	}
	if err := b.d.Remove(b.ctx, t, 5*time.Second); err != nil {
		b.t.Fatalf("remove: %v", err)
	}
	b.until(t, "end", func(o sandbox.Observation) bool {
		return o.Phase == sandbox.PhaseEnded || o.Phase == sandbox.PhaseAbsent
	})
	if err := b.d.Release(b.ctx, t); err != nil {
		b.t.Fatalf("release: %v", err)
	}
	b.gone(t)
}

func ends(b *bench) {
	for _, c := range []struct {
		command []string
		exit    string
		reason  string
	}{
		{[]string{"exit", "0"}, "0", sandbox.ReasonCompleted},
		{[]string{"exit", "7"}, "7", sandbox.ReasonError},
	} {
		t, o := b.ended(c.command...)
		if exitOf(o) != c.exit || o.Reason != c.reason || o.UID != t.UID {
			b.t.Errorf("%v: exit %s, reason %q, UID %s; want %s, %q, %s", c.command, exitOf(o), o.Reason, o.UID, c.exit, c.reason, t.UID)
		}
		if o.Ended.IsZero() {
			b.t.Errorf("%v: nobody knows when it ended", c.command)
		}
	}
}

func outOfMemory(b *bench) {
	if _, o := b.ended("oom"); o.Reason != sandbox.ReasonOOM {
		b.t.Errorf("reason %q, want %q: %+v", o.Reason, sandbox.ReasonOOM, o)
	}
}

func released(b *bench) {
	t := b.run("sleep")
	if err := b.d.Remove(b.ctx, t, time.Second); err != nil {
		b.t.Fatalf("remove: %v", err)
	}
	b.until(t, "end", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseEnded })
	again := b.watch(b.d)
	if o, ok := again.now(t.Nonce); !ok || o.Phase != sandbox.PhaseEnded {
		b.t.Errorf("a new watch, before its release: %+v, %v", o, ok)
	}
	for range 2 { // the second is for nothing
		if err := b.d.Release(b.ctx, t); err != nil {
			b.t.Fatalf("release: %v", err)
		}
	}
	b.gone(t)
	if o, ok := b.watch(b.d).now(t.Nonce); ok {
		b.t.Errorf("a new watch, after its release: %+v", o)
	}
}

func byUID(b *bench) {
	t := b.run("sleep")
	wrong := t
	wrong.UID = "00000000-0000-4000-8000-000000000000"
	if err := b.d.Remove(b.ctx, wrong, 0); err != nil && !errors.Is(err, sandbox.ErrGone) && !errors.Is(err, sandbox.ErrNotOurs) {
		b.t.Errorf("remove by another UID: %v", err)
	}
	if err := b.d.Release(b.ctx, wrong); err != nil && !errors.Is(err, sandbox.ErrGone) && !errors.Is(err, sandbox.ErrNotOurs) {
		b.t.Errorf("release by another UID: %v", err)
	}
	if _, err := b.d.Exec(b.ctx, wrong, sandbox.Exec{Command: b.words("echo", "x")}); err == nil {
		b.t.Error("exec by another UID did something")
	}
	if r, err := b.d.Logs(b.ctx, wrong, sandbox.LogQuery{Tail: -1}); err == nil {
		_ = r.Close()
		b.t.Error("logs by another UID were read")
	}
	var out bytes.Buffer
	if exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: b.words("echo", "alive"), Stdout: &out}); err != nil || exit.Code != 0 || out.String() != "alive\n" {
		b.t.Errorf("it does not live on: %+v, %v, %q", exit, err, out.String())
	}
}

func nothing(b *bench) {
	never := b.task("sleep")
	for _, uid := range []string{"", "00000000-0000-4000-8000-000000000000"} {
		never.UID = uid
		if err := b.d.Remove(b.ctx, never, time.Second); err != nil && !errors.Is(err, sandbox.ErrGone) {
			b.t.Errorf("remove with UID %q: %v", uid, err)
		}
		if err := b.d.Release(b.ctx, never); err != nil && !errors.Is(err, sandbox.ErrGone) {
			b.t.Errorf("release with UID %q: %v", uid, err)
		}
	}
	never.UID = "00000000-0000-4000-8000-000000000000"
	if _, err := b.d.Exec(b.ctx, never, sandbox.Exec{Command: b.words("echo")}); !errors.Is(err, sandbox.ErrGone) && !errors.Is(err, sandbox.ErrNotRunning) {
		b.t.Errorf("exec in what never was: %v", err)
	}
}

func watched(b *bench) {
	t := b.run("sleep")
	again := b.watch(b.d)
	if o, ok := again.now(t.Nonce); !ok || o.Phase != sandbox.PhaseRunning || o.UID != t.UID {
		b.t.Errorf("a new watch had told of it as %+v (%v) when it said that this was all", o, ok)
	}
	if err := b.d.Remove(b.ctx, t, 0); err != nil {
		b.t.Fatalf("remove: %v", err)
	}
	if err := b.d.Release(b.ctx, t); err != nil {
		b.t.Fatalf("release: %v", err)
	}
	for i, s := range []*sight{b.see, again} {
		if o, ok := s.until(t.Nonce, b.caps.Within, func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseAbsent }); !ok {
			b.t.Errorf("watch %d was not told that it is gone: %+v", i, o)
		}
	}
}

func reopened(b *bench) {
	t := b.run("sleep")
	second := b.open(b.caps.Tenant)
	if o, ok := b.watch(second).now(t.Nonce); !ok || o.UID != t.UID || o.Phase != sandbox.PhaseRunning {
		b.t.Errorf("seen as %+v, %v", o, ok)
	}
	again := t
	again.UID = ""
	if uid, err := second.Create(b.ctx, again); err != nil || uid != t.UID {
		b.t.Errorf("create again: UID %q, %v; want %q", uid, err, t.UID)
	}
	var out bytes.Buffer
	if exit, err := second.Exec(b.ctx, t, sandbox.Exec{Command: b.words("echo", "still"), Stdout: &out}); err != nil || exit.Code != 0 || out.String() != "still\n" {
		b.t.Errorf("exec: %+v, %v, %q", exit, err, out.String())
	}
}

// verbatim: nothing expands what a tenant wrote: not a shell, not a cluster (X52).
func verbatim(b *bench) {
	odd := []sandbox.Var{{Name: "EMPTY"}, {Name: "ODD", Value: `a $(HOME) $$(HOME) ${HOME} 'q' "q" \ ü =`}, {Name: "SECOND", Value: "$(ODD)"}}
	t := b.task("env")
	t.Spec.Env = odd
	t = b.make(t)
	b.until(t, "end", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseEnded })
	lines := strings.Split(b.log(t, sandbox.LogQuery{Tail: -1}), "\n")
	for _, v := range odd {
		if !slices.Contains(lines, v.Name+"="+v.Value) {
			b.t.Errorf("%s=%s is not in the environment: %q", v.Name, v.Value, lines)
		}
	}
	t = b.task("echo")
	t.Spec.Args = []string{"$(ODD)", "a  b", "$$(ODD)", `"q"`}
	t.Spec.Env = odd
	t = b.make(t)
	b.until(t, "end", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseEnded })
	if got, want := b.log(t, sandbox.LogQuery{Tail: -1}), strings.Join(t.Spec.Args, " ")+"\n"; got != want {
		b.t.Errorf("arguments arrived as %q, want %q", got, want)
	}
}

func events(b *bench) {
	t := b.run("sleep")
	late := time.Now().Add(b.caps.Within)
	for {
		all, err := b.d.Events(b.ctx, t)
		if err != nil {
			b.t.Fatalf("events: %v", err)
		}
		if len(all) > 0 {
			if !slices.IsSortedFunc(all, func(x, y sandbox.Event) int { return x.At.Compare(y.At) }) {
				b.t.Errorf("not the oldest first: %+v", all)
			}
			return
		}
		if time.Now().After(late) {
			b.t.Fatal("nothing happened")
		}
		<-time.After(200 * time.Millisecond)
	}
}

func foreign(b *bench) {
	t := b.run("sleep")
	other := b.open(b.caps.Other)
	if o, ok := b.watch(other).now(t.Nonce); ok {
		b.t.Errorf("another tenant sees %+v", o)
	}
	for _, x := range []sandbox.Task{t, {Sandbox: t.Sandbox, Nonce: t.Nonce, Name: t.Name}} {
		if err := other.Remove(b.ctx, x, 0); err != nil && !errors.Is(err, sandbox.ErrGone) {
			b.t.Errorf("remove: %v", err)
		}
		if _, err := other.Exec(b.ctx, x, sandbox.Exec{Command: b.words("echo", "x")}); err == nil {
			b.t.Error("another tenant ran a command")
		}
		if r, err := other.Logs(b.ctx, x, sandbox.LogQuery{Tail: -1}); err == nil {
			_ = r.Close()
			b.t.Error("another tenant read logs")
		}
	}
	var out bytes.Buffer
	if exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: b.words("echo", "alive"), Stdout: &out}); err != nil || exit.Code != 0 {
		b.t.Errorf("it does not live on: %+v, %v", exit, err)
	}
}
