package kube

import (
	"os"
	"testing"

	"github.com/polygate/polygate/vgw/sandbox"
)

// TestClusterSignals sends signals through a second exec. It takes an image with a shell (sh, tr, env and sleep in its root folder),
// such as one of busybox, which the recipe does not pack.
func TestClusterSignals(t *testing.T) {
	image := os.Getenv("POLYGATE_KUBE_TEST_SHELL")
	if image == "" {
		t.Skip("POLYGATE_KUBE_TEST_SHELL does not name an image with a shell that the cluster has")
	}
	d := realTenant(t, realDrivers(t))
	w := watchAll(t, d)
	task := toolsTask()
	task.Spec.Image, task.Spec.Command = image, []string{"sleep", "1000"}
	task.Spec.Env = []sandbox.Var{{Name: "PATH", Value: "/"}}
	uid, err := d.Create(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	task.UID = uid
	w.wait(t, task, "it to run", in(sandbox.PhaseRunning))
	for _, c := range []struct {
		name   string
		script string
		tty    bool
		code   int
	}{
		{"TERM", `trap "echo got TERM; exit 7" TERM; echo "$X"; while :; do sleep 1; done`, false, 7},
		{"USR1", `trap "echo got USR1; exit 8" USR1; echo "$X"; while :; do sleep 1; done`, false, 8},
		{"KILL", `echo "$X"; while :; do sleep 1; done`, false, 137},
		{"INT", `trap "echo got INT; exit 9" INT; echo "$X"; while :; do sleep 1; done`, true, 9},
		{"HUP", `trap "echo got HUP; exit 10" HUP; echo "$X"; while :; do sleep 1; done`, true, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, signals, done := newScreen(), make(chan string, 1), make(chan error, 1)
			var exit sandbox.Exit
			go func() {
				var err error
				exit, err = d.Exec(t.Context(), task, sandbox.Exec{
					Command: []string{"sh", "-c", c.script}, Env: []sandbox.Var{{Name: "X", Value: "ready $HOME"}},
					Stdout: out, Stderr: out, TTY: c.tty, Signals: signals,
				})
				done <- err
			}()
			out.wait(t, "ready $HOME")
			signals <- c.name
			if err := <-done; err != nil || exit.Code != c.code {
				t.Errorf("%+v, %v, %q", exit, err, out)
			}
		})
	}
}
