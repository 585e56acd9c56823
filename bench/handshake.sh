#!/usr/bin/env bash
# What a TLS handshake costs the gateway, side by side with HAProxy in one run: CPU per full handshake and per resumption with
# 1, 1,000 and 10,000 names, memory, and the first handshake of names whose certificate is in the store alone. All certificates
# are ECDSA P-256, of two certificates each; HAProxy has them in files, the gateway in its registry (certificates.files).
# Usage: bench/handshake.sh [NAMES] [HANDSHAKES]    needs haproxy; figures are of this machine, read the ratios
set -euo pipefail
cd "$(dirname "$0")/.."
names=${1:-10000} count=${2:-4000}
dir=$(mktemp -d)
pids=()
cleanup() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$dir"; }
trap cleanup EXIT
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
go build -o "$dir/" ./cmd/polygate ./bench/handshake
mkdir "$dir/certs"
echo "making $names certificates"
"$dir/handshake" -make "$dir/certs" -names "$names"

cat >"$dir/haproxy.cfg" <<EOF
global
  nbthread 2
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-bind-curves X25519
defaults
  mode http
  timeout client 10s
  timeout connect 5s
  timeout server 10s
frontend f
  bind 127.0.0.1:18443 ssl crt $dir/certs/pem alpn h2,http/1.1
  http-request return status 200 content-type text/plain string ok
EOF
{
	echo "tenants:"
	for ((i = 0; i < names; i++)); do
		echo "  - {id: t$i, certificates: {source: provided, files: [{cert_file: certs/pair/t$i.bench.test.crt, key_file: certs/pair/t$i.bench.test.key}]}}"
	done
} >"$dir/tenants.yaml"
cat >"$dir/polygate.yaml" <<EOF
data_dir: $dir/data
base_domain: bench.test
shared_hosts: [bench.test]
listen: {public: "127.0.0.1:28443", plain: "", admin: "127.0.0.1:29443", telemetry: "127.0.0.1:29090"}
tenants_file: tenants.yaml
limits: {resident_certificates: $names}
log: {level: warn}
EOF

haproxy -f "$dir/haproxy.cfg" >"$dir/haproxy.log" 2>&1 &
pids+=($!)
haproxy=$!
start_gateway() {
	"$dir/polygate" serve --config "$dir/polygate.yaml" >"$dir/polygate.log" 2>&1 &
	gateway=$!
	pids+=("$gateway")
	until curl -fs http://127.0.0.1:29090/readyz >/dev/null; do
		kill -0 "$gateway" 2>/dev/null || { cat "$dir/polygate.log"; exit 1; }
		sleep 0.2
	done
}
began=$SECONDS
start_gateway
echo "first start, with $names tenants and their certificates to take in: $((SECONDS - began)) s"
kill "$gateway" && wait "$gateway" || true
began=$(date +%s%N)
start_gateway
echo "second start, with $names tenants: $((($(date +%s%N) - began) / 1000000)) ms"
until "$dir/handshake" -addr 127.0.0.1:18443 -n 1 >/dev/null 2>&1; do sleep 0.2; done

measure() { "$dir/handshake" -quiet -n "$count" "$@"; }
row() { # row LABEL FLAGS...: gateway and HAProxy in turn, twice; the smaller CPU of each counts
	local label=$1 best_g= best_h= g h
	shift
	for _ in 1 2; do
		g=$(measure -addr 127.0.0.1:28443 -pid "$gateway" "$@")
		h=$(measure -addr 127.0.0.1:18443 -pid "$haproxy" "$@")
		if [ -z "$best_g" ] || [ "${g%% *}" -lt "${best_g%% *}" ]; then best_g=$g; fi
		if [ -z "$best_h" ] || [ "${h%% *}" -lt "${best_h%% *}" ]; then best_h=$h; fi
	done
	awk -v l="$label" -v g="$best_g" -v h="$best_h" 'BEGIN { split(g, a); split(h, b)
		printf "%-28s %6d %6d %6d | %6d %6d %6d | %5.2f | %8d %8d\n", l, a[1], a[2], a[3], b[1], b[2], b[3], a[1]/b[1], a[4]/1024, b[4]/1024 }'
}
echo "cold names (certificate in the store alone):"
"$dir/handshake" -addr 127.0.0.1:28443 -pid "$gateway" -names "$names" -n $((names < 2000 ? names : 2000)) -workers 1
"$dir/handshake" -addr 127.0.0.1:28443 -names "$names" -n "$names" >/dev/null # all of them in memory from here on
echo "                             --- gateway ------- | --- HAProxy ------- | CPU   | resident MiB"
echo "                             CPU µs  p50    p99  | CPU µs  p50    p99  | ratio | gateway  HAProxy"
for n in 1 1000 10000; do
	[ "$n" -le "$names" ] || continue
	row "full, $n names" -names "$n"
done
echo "resumption, and a request:"
for n in 2 1000 10000; do # a name for each of the two workers at least
	[ "$n" -le "$names" ] || continue
	row "resumed, $n names" -names "$n" -resume
done
