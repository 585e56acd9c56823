package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// TestMain lets the scripts in testdata run this binary as polygate.
func TestMain(m *testing.M) {
	testscript.Main(leakFree{m}, map[string]func(){"polygate": main})
}

// leakFree fails the run if a test left a goroutine behind.
type leakFree struct{ m *testing.M }

func (l leakFree) Run() int {
	code := l.m.Run()
	builtPrograms.remove()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			return 1
		}
	}
	return code
}
