#!/usr/bin/env bash
# What it costs that several replicas are one gateway: three members of etcd and three replicas on this machine. Prints how long a
# change takes to have its effect on all replicas, what a forwarded request costs beside one to the owner, the pause of a move,
# for how long a tenant is away after kill -9 of its owner, and start and memory with many tenants.
# Usage: bench/cluster.sh [FLAGS]    such as -crashes 5 -sizes 10000; -h lists them. 50 crashes take some 10 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
go build -o "$dir/" ./cmd/polygate ./bench/cluster
"$dir/cluster" -polygate "$dir/polygate" -etcd "$(go tool -n go.etcd.io/etcd/server/v3)" -dir "$dir/data" "$@"
