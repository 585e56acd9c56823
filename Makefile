# Builds need Go, make and git. CGO is off but for the race detector.
export GOFLAGS := -buildvcs=false
GO ?= go
PKGS := ./...
RUN :=
FUZZTIME ?= 10s
COUNT ?= 1
# Packages that are tested at a time: most tests wait for clocks, disks and other programs, so more than there are processors. The race
# detector makes work of all of them: not there.
P ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? 4 : n)))
CHAOS ?= 60m

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

run: build ## build and run the demo: embedded etcd, local CA, two tenants, a real MCP server; Ctrl-C ends it
	@exec bin/mcpserver -server bin/everything-server -- bin/polygate serve --config deploy/demo/polygate.yaml

build: ## build bin/polygate and the demo's MCP server
	CGO_ENABLED=0 $(GO) build -o bin/ ./cmd/... ./deploy/demo/mcpserver
	CGO_ENABLED=0 $(GO) build -o bin/everything-server github.com/modelcontextprotocol/go-sdk/conformance/everything-server

test: ## run all tests (no C compiler needed)
	CGO_ENABLED=0 $(GO) test -p $(P) -count=$(COUNT) -shuffle=on -timeout 20m $(if $(RUN),-run '$(RUN)') $(PKGS)

race: ## run all tests under the race detector, the longest of them shortened (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short -vet=off -count=$(COUNT) -shuffle=on -timeout 30m $(if $(RUN),-run '$(RUN)') $(PKGS)

fuzz: ## run every fuzz target for FUZZTIME each (default 10s)
	./bench/fuzz-all.sh $(FUZZTIME)

lint: ## gofmt, go vet, staticcheck, golangci-lint and govulncheck
	./.ci/lint

arch: ## hold the import map and the shape of the packages
	CGO_ENABLED=0 $(GO) test -count=1 ./internal/archtest

bench: build peers ## measure beside nginx, HAProxy, Caddy and a gateway per tenant (some 10 minutes); writes bench/RESULTS.md
	bin/polybench suite --markdown bench/RESULTS.md --json bench/results.json --html bench/results.html

bench-full: build peers ## the same with more turns, all scenarios and 100,000 tenants (over an hour)
	bin/polybench suite --full --markdown bench/RESULTS.md --json bench/results.json --html bench/results.html

microbench: ## Go benchmarks of the request path, the registry and the audit chain
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchmem ./...

peers: build # Caddy is built once per user; nginx and haproxy are taken from the path
	-bin/polybench peers --install

e2e: build ## the official MCP conformance suite and other clients, through the running demo, sandboxes on a real Kubernetes, and 15 minutes of faults (needs npm and root)
	./.ci/kube run ./.ci/e2e
	$(MAKE) chaos CHAOS=15m

chaos: ## faults under load against three replicas and three etcd members, for CHAOS (default 60m); see test/chaos
	CGO_ENABLED=0 POLYGATE_CHAOS=$(CHAOS) $(GO) test -count=1 -v -timeout 24h ./test/chaos

kube: ## build the one-node Kubernetes of test/kube (minutes the first time), start it, and print its kubeconfig (needs root)
	@./.ci/kube

kube-down: ## end what make kube started
	@./.ci/kube down

.PHONY: kube kube-down help run build test race fuzz lint arch bench bench-full microbench peers e2e chaos
