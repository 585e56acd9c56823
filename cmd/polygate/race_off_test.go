//go:build !race

package main

// raceEnabled says whether the race detector watches this process. It does not watch the programs that it starts.
const raceEnabled = false
