#!/usr/bin/env bash
# What sandboxes cost on the real Kubernetes of test/kube: from create to Running beside an equal plain pod (and what of it is the
# gateway's part), a command's round trip beside one that goes to the API server straight, and, with many sandboxes tracked, memory
# and calls of the API server in a minute.
# Usage: bench/sandbox.sh [SANDBOXES]    default 1000; needs to be root. Figures are of this machine: read them side by side
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
go build -o bin/ ./cmd/polygate
POLYGATE_KUBE_TEST=$(./.ci/kube)
export POLYGATE_KUBE_TEST POLYGATE_FIGURES=${1:-1000}
go test -count=1 -tags e2e -timeout 30m -run '^TestSandboxFigures$' -v ./test/e2e | sed -n 's/^ *sandbox_figures_test.go:[0-9]*: //p; /^FAIL/p'
