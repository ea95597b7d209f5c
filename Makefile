# "make" alone prints this file's targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash

# Tools are pinned in a module of their own and built by Go; nothing is
# installed by hand.
GO       ?= go
TOOL     := $(GO) tool -modfile=$(CURDIR)/internal/tools/go.mod
# Static binaries without symbols, as the Collector's own releases have them.
GOBUILD  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w"
MODULES  := . testbed
# The race detector needs a C compiler; without one the tests run without it.
RACEFLAG := $(shell command -v gcc >/dev/null && echo -race)
# Where "make run" and "make demo" keep their state.
RUNDIR   := $(CURDIR)/_build/run

FULL     := bin/otelcol-opamp
SMALL    := bin/otelcol-opamp-testbed
RACE     := bin/otelcol-opamp-testbed-race
SAMPLING := bin/otelcol-opamp-sampling
SERVER   := bin/opampserver
FLEET    := bin/fleet.test
# What ours is tested with and measured beside: contrib's supervisor, and Collectors
# that it can run.
SUPERVISOR      := bin/opampsupervisor
SUPERVISED      := bin/otelcol-supervised
SUPERVISED_FULL := bin/otelcol-supervised-full
SOURCES  := $(shell find extension confmapprovider internal -name '*.go' -not -name '*_test.go' 2>/dev/null) go.mod
TESTBED  := $(shell find testbed -name '*.go' -not -path '*/_build*/*' 2>/dev/null) testbed/go.mod

.PHONY: help
help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Building

.PHONY: build
build: $(FULL) ## Build the distribution, bin/otelcol-opamp (cold: about 6 minutes on two cores)

$(FULL): builder-config.yaml $(SOURCES)
	@echo "==> building $@ (the first time this takes about 6 minutes on two cores)"
	@$(TOOL) builder --config builder-config.yaml --skip-compilation
	@cd distribution/_build && $(GOBUILD) -o ../../$@ .

.PHONY: small
small: $(SMALL) ## Build the small distribution of the tests (cold: one to two minutes)

testbed/_build/go.sum: testbed/builder-config.yaml go.mod testbed/go.mod
	@echo "==> generating the small distribution"
	@$(TOOL) builder --config testbed/builder-config.yaml --skip-compilation

# The failpoints are for tests; without them the code is not in the binary.
$(SMALL): testbed/_build/go.sum $(SOURCES) $(TESTBED)
	@echo "==> building $@ (the first time this takes one to two minutes)"
	@cd testbed/_build && $(GOBUILD) -tags failpoints -o ../../$@ .

$(RACE): testbed/_build/go.sum $(SOURCES) $(TESTBED)
	@echo "==> building $@ with the race detector"
	@cd testbed/_build && CGO_ENABLED=1 $(GO) build -race -tags failpoints -o ../../$@ .

$(SAMPLING): testbed/builder-config-sampling.yaml $(SOURCES)
	@echo "==> building $@ (the first time this takes one to two minutes more)"
	@$(TOOL) builder --config $< --skip-compilation
	@cd testbed/_build_sampling && $(GOBUILD) -o ../../$@ .

$(SERVER): $(TESTBED)
	@echo "==> building $@"
	@cd testbed && $(GOBUILD) -o ../$@ ./cmd/opampserver

# The agents of bench-fleet: a test binary, because it replaces the dry run.
$(FLEET): $(SOURCES) $(wildcard internal/agent/*_test.go)
	@echo "==> building $@"
	@$(GO) test -c -o $@ ./internal/agent

# A module of its own: its dependencies and ours exclude each other. It cannot be
# tidied where a proxy lacks what only the supervisor's own tests import, and is
# therefore not among the tidied ones; an incomplete go.mod fails this build.
$(SUPERVISOR): testbed/tools/opampsupervisor/go.mod testbed/tools/opampsupervisor/go.sum
	@echo "==> building $@ (the first time this takes about a minute)"
	@cd testbed/tools/opampsupervisor && $(GOBUILD) -o ../../../$@ github.com/open-telemetry/opentelemetry-collector-contrib/cmd/opampsupervisor

$(SUPERVISED): testbed/builder-config-supervised.yaml $(TESTBED)
	@echo "==> building $@ (the first time this takes one to two minutes)"
	@$(TOOL) builder --config $< --skip-compilation
	@cd testbed/_build_supervised && $(GOBUILD) -o ../../$@ .

$(SUPERVISED_FULL): testbed/builder-config-supervised-full.yaml
	@echo "==> building $@ (the first time this takes about 6 minutes on two cores)"
	@$(TOOL) builder --config $< --skip-compilation
	@cd testbed/_build_supervised_full && $(GOBUILD) -o ../../$@ .

##@ Trying

.PHONY: run
run: $(SMALL) $(SERVER) ## Run the development server and a Collector; Ctrl-C stops both
	@cd testbed && $(GO) build -o ../bin/run ./cmd/run
	@exec bin/run -server $(SERVER) -collector $(SMALL) -config distribution/config.yaml -state $(RUNDIR)

.PHONY: demo
demo: $(SMALL) ## Offer a good, an invalid and a harmful configuration, and check what happens (under a minute)
	@cd testbed && $(GO) run ./cmd/demo -collector ../$(SMALL)

##@ Testing

.PHONY: test
test: test-unit test-e2e ## Run unit and end-to-end tests

.PHONY: test-unit
test-unit: ## Run the unit tests, with the race detector if there is a C compiler
	@for m in $(MODULES); do echo "==> unit tests of module $$m"; \
		(cd $$m && $(GO) test $(RACEFLAG) -timeout 15m $$($(GO) list ./... | grep -v /e2e)) || exit 1; done
	@echo "==> unit tests with failpoints"
	@$(GO) test -tags failpoints ./internal/failpoint ./internal/statedir

# Most of an end-to-end test is waiting, so four run at a time on two cores.
.PHONY: test-e2e
test-e2e: $(if $(RACEFLAG),$(RACE),$(SMALL)) $(SUPERVISOR) $(SAMPLING) ## Run the end-to-end tests against the small distribution
	@echo "==> end-to-end tests$(if $(RACEFLAG),, without the race detector: no C compiler)"
	@cd testbed && OTELCOL_OPAMP_BINARY=$(CURDIR)/$< OTELCOL_OPAMP_SUPERVISOR=$(CURDIR)/$(SUPERVISOR) \
		OTELCOL_OPAMP_SAMPLING_BINARY=$(CURDIR)/$(SAMPLING) $(GO) test -timeout 40m -parallel 4 ./e2e/...

.PHONY: test-sampling
test-sampling: $(SAMPLING) ## Switch a fleet from head to tail sampling and back under load, and say what became of the traces (40 s)
	@cd testbed && OTELCOL_OPAMP_SAMPLING_BINARY=$(CURDIR)/$(SAMPLING) $(GO) test -count=1 -v -run '^TestSampling' ./e2e/

.PHONY: soak
soak: $(SMALL) ## Kill, restart and disturb the small distribution for about 20 minutes (SEED=n to vary)
	@cd testbed && OTELCOL_OPAMP_BINARY=$(CURDIR)/$< OTELCOL_OPAMP_E2E_SEED=$(or $(SEED),$(shell date +%s)) \
		OTELCOL_OPAMP_E2E_KILLS=20 OTELCOL_OPAMP_E2E_MODELS=200 OTELCOL_OPAMP_E2E_STEPS=30 OTELCOL_OPAMP_E2E_LIVES=1000 \
		$(GO) test -count=1 -timeout 60m -parallel 4 -run 'TestKilledAtEveryStep|TestModel|TestSignalsAtRandomMoments' ./e2e/

.PHONY: fuzz
fuzz: ## Run each fuzz target for 30 s
	@for p in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/func //'); do \
			echo "==> $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime 30s $$p || exit 1; done; done

.PHONY: bench
bench: $(FULL) $(SMALL) $(SUPERVISED_FULL) $(SUPERVISED) $(SUPERVISOR) ## Measure everything beside contrib's supervisor (20 minutes; flags: BENCHFLAGS)
	@echo "==> measuring (about 20 minutes)"
	@cd testbed && $(GO) run ./cmd/bench -collector ../$(FULL) -supervised ../$(SUPERVISED_FULL) -supervisor ../$(SUPERVISOR) \
		-small-collector ../$(SMALL) -small-supervised ../$(SUPERVISED) -json ../docs/benchmarks.json $(BENCHFLAGS)

.PHONY: bench-rollout
bench-rollout: $(FULL) ## Measure a change of configuration with the full distribution
	@cd testbed && $(GO) run ./cmd/benchrollout -collector ../$(FULL)

.PHONY: bench-rollback
bench-rollback: $(FULL) $(SUPERVISED_FULL) $(SUPERVISOR) ## Measure rollbacks with the full distribution, beside contrib's supervisor (20 minutes; flags: BENCHFLAGS)
	@echo "==> measuring rollbacks"
	@cd testbed && $(GO) run ./cmd/benchrollback -collector ../$(FULL) -supervised ../$(SUPERVISED_FULL) -supervisor ../$(SUPERVISOR) $(BENCHFLAGS)

.PHONY: bench-rollback-small
bench-rollback-small: $(SMALL) $(SUPERVISED) $(SUPERVISOR) ## The same with the small distribution, which can fail in more ways
	@echo "==> measuring rollbacks with the small distribution"
	@cd testbed && $(GO) run ./cmd/benchrollback -collector ../$(SMALL) -supervised ../$(SUPERVISED) -supervisor ../$(SUPERVISOR) $(BENCHFLAGS)

.PHONY: bench-fleet
bench-fleet: $(FLEET) ## Measure N agents without Collectors and one server (N=200,500,1000,2000 takes about 15 minutes; flags: BENCHFLAGS)
	@echo "==> measuring a fleet"
	@cd testbed && $(GO) run ./cmd/benchfleet -fleet ../$(FLEET) -json ../bin/fleet.json $(if $(N),-n $(N)) $(BENCHFLAGS)

##@ Checking

.PHONY: check
check: lint generate-check tidy-check cross ## Run all checks but the tests

.PHONY: lint
lint: ## Run the linters
	@for m in $(MODULES); do echo "==> linting module $$m"; \
		(cd $$m && $(TOOL) golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

.PHONY: fmt
fmt: ## Format the code
	@for m in $(MODULES); do (cd $$m && $(TOOL) golangci-lint fmt --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: generate
generate: ## Write generated files anew
	@$(GO) generate ./...
	@cd testbed && $(GO) run ./cmd/conformance

# A module of its own, as contrib's supervisor is: see above.
.PHONY: contrib-golden
contrib-golden: ## Write anew what contrib's extension makes of the blocks that we accept
	@cd testbed/tools/contribconfig && $(GO) run . < $(CURDIR)/extension/opampextension/testdata/contrib_blocks.yaml \
		> $(CURDIR)/extension/opampextension/testdata/contrib_blocks.golden.json

.PHONY: generate-check
generate-check: generate ## Check that generated files are up to date
	@git diff --exit-code -- '*generated_*' '*README.md' '*documentation.md' docs/conformance.md || { echo 'generated files are not up to date: run "make generate" and commit'; exit 1; }

.PHONY: tidy
tidy: ## Tidy all modules
	@for m in $(MODULES) internal/tools; do (cd $$m && $(GO) mod tidy); done

.PHONY: tidy-check
tidy-check: tidy ## Check that all modules are tidy
	@git diff --exit-code -- '*go.mod' '*go.sum' || { echo 'modules are not tidy: run "make tidy" and commit'; exit 1; }

.PHONY: cross
cross: ## Compile and vet for the other platforms
	@for p in linux/arm64 darwin/arm64 windows/amd64; do \
		for m in $(MODULES); do echo "==> $$p, module $$m"; \
			(cd $$m && GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) vet ./...) || exit 1; done; done

.PHONY: clean
clean: ## Remove everything that was built
	@rm -rf bin _build distribution/_build testbed/_build testbed/_build_sampling testbed/_build_supervised testbed/_build_supervised_full
