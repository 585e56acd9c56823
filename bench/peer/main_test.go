package peer

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the process of ReverseProxy, and one that dies beside a subject that it started.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		goleak.VerifyTestMain(m)
		return
	}
	switch os.Args[1] {
	case "reverseproxy":
		child(ReverseProxyMain(os.Args[2:]))
	case "hold":
		child(hold(os.Args[2], os.Args[3]))
	default:
		goleak.VerifyTestMain(m)
	}
}

func child(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hold starts the subject with that name in a folder, prints its processes and waits to be killed.
func hold(name, dir string) error {
	s, err := Lay(dir, "bench.test", 2, 1, "seed")
	if err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	for _, p := range all(cache) {
		if p.Name() != name {
			continue
		}
		run, err := p.Start(context.Background(), s)
		if err != nil {
			return err
		}
		for _, pid := range run.PIDs() {
			fmt.Println(pid)
		}
		fmt.Println("ready")
		select {}
	}
	return fmt.Errorf("no subject is named %q", name)
}
