# Everything that is done with this project has a target here; `make help` lists
# them. Only Go, gcc, git and make are needed for build, run and test. What has
# to be built besides (the linter, and the etcd and Kubernetes that tests run
# beside us) is kept by version in $(CACHE), outside the checkout.

# A pipe fails with any of its commands.
SHELL := bash
.SHELLFLAGS := -o pipefail -ec

CACHE ?= $(or $(PEBBLEDASH_CACHE),$(HOME)/.cache/pebbledash)
export PEBBLEDASH_CACHE := $(CACHE)

VERSION ?= $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
APP := github.com/pebbledash/pebbledash/cmd/pebbledash/app
LDFLAGS := -X $(APP).version=$(VERSION) -X $(APP).gitSHA=$(COMMIT)

GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/tools/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

# Flags of benchmarks/run.sh, and what there is to measure.
BENCH ?=
BENCH_MODES := quick full cluster lists leases large compaction failover mix growth fanout overload snapshot backup
# Further arguments for the servers that `make run` and `make cluster` start.
ARGS ?=
KILLS ?= 50
# How long each fault goes on in make faults.
DURATION ?= 30s
# How many times the default number of random histories make test runs.
FACTOR ?= 5
FUZZTIME ?= 30s
# How many requests make sequence sends, made from SEED; 0 is any.
OPS ?= 10000
SEED ?= 0
# How many clusters make simulate goes through, and the seed of the first.
CLUSTERS ?= 1000
FIRST ?= 1
# What make kubemark runs: hollow nodes, pods, members of the store, which store
# (pebbledash, etcd or both), and the run's name and folder in data/kubemark.
NODES ?= 100
PODS ?= 1000
MEMBERS ?= 1
STORE ?= both
NAME ?= kubemark

.DEFAULT_GOAL := build

.PHONY: help
help:
	@echo 'make build        bin/pebbledash'
	@echo 'make run          start a member on http://127.0.0.1:2379, data in ./data (ARGS=... for more flags)'
	@echo 'make cluster      three members on 127.0.0.1, data in ./data/cluster (MEMBERS=5 ARGS=...)'
	@echo 'make test         the tests that need nothing else, with the model and crash tests'
	@echo 'make test-race    the same under the race detector, with costly assertions'
	@echo 'make lint         golangci-lint and the house rules'
	@echo 'make fmt          format the code as lint wants it'
	@echo 'make conformance  hold the server to etcd: the storage suites of kube-apiserver and our own'
	@echo 'make sequence     $(OPS) random requests to etcd, to one member and to three: equal answers (OPS=... SEED=...)'
	@echo 'make manifests    read every file in manifests/ with the parser of who reads it'
	@echo 'make operations   run the commands of the pages in manifests/operations, with real members (a minute)'
	@echo 'make kube         a Kubernetes control plane on top of it (builds Kubernetes the first time)'
	@echo 'make kubemark     $(NODES) hollow nodes, $(PODS) pods and clients that load them, beside etcd'
	@echo '                  (NODES=... PODS=... MEMBERS=1|3 STORE=pebbledash|etcd|both NAME=... ARGS=...; as root)'
	@echo 'make kill         kill -9 under load, $(KILLS) times (KILLS=...)'
	@echo 'make faults       clusters whose network and disks fail, beside etcd; $(DURATION) a fault (DURATION=...; as root)'
	@echo 'make simulate     $(CLUSTERS) simulated clusters through 20 schedules of faults each (CLUSTERS=... FIRST=...)'
	@echo 'make mutants      bugs planted in a copy, which the simulation must find'
	@echo 'make bench        every benchmark beside etcd, kept in benchmarks/results, and which figures are reached (some 75 minutes)'
	@echo 'make bench-quick  a short benchmark beside etcd (some 4 minutes; BENCH=... for its flags, as for those below)'
	@echo 'make bench-MODE   one of them, not kept: $(BENCH_MODES)'
	@echo 'make bench-goals  which figures are reached, by the results that were kept last'
	@echo 'make bench-report draw all results that were kept: benchmarks/results/index.html'
	@echo 'make fuzz         each fuzz test for $(FUZZTIME) (FUZZTIME=...)'
	@echo 'make clean        remove bin; data stays'

# With cgo Pebble keeps memtables and blocks outside of Go's heap; without it they
# double what the collector lets the heap grow to.
.PHONY: build
build:
	CGO_ENABLED=1 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/pebbledash ./cmd/pebbledash

.PHONY: run
run: build
	exec ./bin/pebbledash --data-dir=data --log-format=console \
		--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 $(ARGS)

.PHONY: cluster
cluster: build
	exec manifests/cluster.sh $(ARGS)

# Tests that need a server run bin/pebbledash as it is, so they come after build.
.PHONY: test
test: build
	go test -timeout 8m $$(go list ./... | grep -v -e /storage/sim -e /gateway/conformance)
	go test -timeout 8m ./gateway/conformance/server ./gateway/conformance/crash ./gateway/conformance/kube ./gateway/conformance/faults ./gateway/conformance/metrics
	go test -C gateway/conformance -short -count=1
	go test -C benchmarks ./...
	@# The counts of the model and the crash tests are worth a look.
	go test -timeout 8m -count=1 -v ./storage/sim -factor $(FACTOR) | grep -v -e '^===' -e '^    ---'

.PHONY: test-race
test-race: build
	go test -race -timeout 20m ./...

.PHONY: lint
lint: $(GOLANGCI)
	go mod tidy -diff
	$(GOLANGCI) run ./...
	cd benchmarks && go mod tidy -diff && $(GOLANGCI) run --config ../.golangci.yml ./...
	cd gateway/conformance/manifests && go mod tidy -diff && $(GOLANGCI) run --config ../../../.golangci.yml ./...
	go test -count=1 ./pkg/lint

.PHONY: fmt
fmt: $(GOLANGCI)
	$(GOLANGCI) fmt

# Two to five minutes, once.
$(GOLANGCI):
	GOBIN=$(@D) CGO_ENABLED=0 nice go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: conformance
conformance: build
	go test -C gateway/conformance -count=1
	go test ./gateway/conformance/auth ./gateway/conformance/etcdctl ./gateway/conformance/json ./gateway/conformance/clients ./gateway/conformance/server ./gateway/conformance/cluster ./gateway/conformance/kubeadm ./gateway/conformance/serving ./gateway/conformance/snapshot -count=1
	go test ./gateway/conformance/sequence -count=1 -v -ops 500

.PHONY: sequence
sequence: build
	benchmarks/peers/build.sh etcd
	go test ./gateway/conformance/sequence -count=1 -v -timeout 60m -ops $(OPS) -seed $(SEED)

.PHONY: manifests
manifests: build
	go test -C gateway/conformance/manifests -count=1

.PHONY: operations
operations: build
	benchmarks/peers/build.sh etcd-all
	go test ./gateway/conformance/operations -count=1 -v -timeout 20m

.PHONY: kube
kube: build
	benchmarks/peers/build.sh etcd-all kube-all
	PEBBLEDASH_KUBE=1 go test ./gateway/conformance/kube -count=1 -v -timeout 30m

.PHONY: kubemark
kubemark:
	benchmarks/kubemark/run.sh -nodes=$(NODES) -pods=$(PODS) -members=$(MEMBERS) -store=$(STORE) -name=$(NAME) $(ARGS)

.PHONY: kill
kill: build
	PEBBLEDASH_KILLS=$(KILLS) go test ./gateway/conformance/crash -count=1 -v -timeout 60m

.PHONY: faults
faults: build
	benchmarks/peers/build.sh etcd
	go test -C gateway/conformance/faults -count=1 -v -timeout 6h -run TestFaults -peers -duration=$(DURATION)

.PHONY: simulate
simulate:
	go test -timeout 3h ./storage/group -run TestSimulation -count=1 -v -clusters $(CLUSTERS) -first $(FIRST) | grep -v -e '^===' -e '^    ---' -e digest

.PHONY: mutants
mutants:
	storage/group/mutants.sh

.PHONY: bench
bench: build
	benchmarks/run.sh all $(BENCH)

.PHONY: bench-goals
bench-goals:
	benchmarks/run.sh goals

.PHONY: bench-report
bench-report:
	benchmarks/run.sh page

.PHONY: $(BENCH_MODES:%=bench-%)
$(BENCH_MODES:%=bench-%): bench-%: build
	benchmarks/run.sh $* $(BENCH)

.PHONY: fuzz
fuzz:
	@set -e; \
	grep -rl --include='*_test.go' '^func Fuzz' cmd gateway pkg storage | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$file $$name"; \
			go test "./$$(dirname "$$file")" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x; \
		done; \
	done

.PHONY: clean
clean:
	rm -rf bin
