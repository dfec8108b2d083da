# The one task runner. `make` prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO        ?= go
CACHE     := .cache
ARTIFACTS ?= artifacts
# Recordings and vectors that are not in the repository; tests that need them say so when they are missing.
ifneq ($(wildcard ../shared/data),)
export LOOPTAPE_SHARED ?= $(abspath ../shared)
endif
export CGO_ENABLED := 0
RACE      := CGO_ENABLED=1 $(GO) test -race

# Packages with concurrency: tested under the race detector.
CONCURRENT := ./internal/base/... ./internal/broker/... ./internal/loop/stream/... ./internal/loop/collect/... \
              ./internal/loop/evaluate/... ./internal/loop/gate/... ./internal/loop/view/... ./internal/web/... ./internal/app/...

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

build: pages ## bin/looptape with its pages
	$(GO) build -o bin/looptape ./cmd/looptape

pages: internal/web/dist/index.html

internal/web/dist/index.html: web/package-lock.json web/index.html web/vite.config.ts $(shell find web/src -type f 2>/dev/null)
	cd web && npm ci --no-audit --no-fund && npm run build
	@test -s $@ || { echo "the pages were not built: $@ is missing"; exit 1; }

run: build ## build, then run the demo (http://127.0.0.1:8080)
	./bin/looptape demo

test: vet ## everything fast: unit, property and transcript tests
	$(GO) test ./...

vet:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "gofmt would change: $$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e,crash,compat,browser,demo,bench,servers ./test/... ./internal/... ./cmd/...

race: ## the packages with concurrency under the race detector
	$(RACE) $(CONCURRENT)

e2e: build ## the loop end to end on the tape, recorded traffic twice; and hostile input on every port
	$(GO) test -tags e2e -count=1 -timeout 15m ./test/e2e/... ./test/hostile/...

servers: tools ## the object store and metadata contracts against a real S3 server and etcd
	$(GO) test -tags servers -count=1 -timeout 15m ./internal/base/... ./internal/broker ./internal/broker/store/catalog ./test/rig/... ./cmd/...

sim: ## the storage engine in a faulty world, SEEDS seeds (2000) or SEED=n alone
	LOOPTAPE_SEED=$(SEED) LOOPTAPE_SEEDS=$(or $(SEEDS),2000) $(GO) test -count=1 -timeout 30m -v -run 'TestSim$$' ./test/sim

crash: build tools ## SIGKILL at random moments under load, 50 rounds; store, etcd, disk and sync failing underneath
	$(GO) test -tags crash -count=1 -timeout 25m -v ./test/crash/...

failover: build tools ## two brokers on one bucket: SIGKILL and SIGSTOP of the leader under load
	$(GO) test -tags crash -count=1 -timeout 15m -v ./test/failover/...

idle: build tools ## a quiet broker asks nothing that costs money, for a minute
	$(GO) test -tags e2e -count=1 -timeout 30m -v ./test/idle/...

compat: build tools ## foreign clients on the tape, and the loop on Apache Kafka
	$(GO) test -tags compat -count=1 -timeout 20m -v ./test/compat/...

browser: build tools ## the pages in headless Chromium; screenshots in $(ARTIFACTS)
	$(GO) test -tags browser -count=1 -timeout 10m -v ./test/browser/...

demo-check: build ## the demo reaches its rollback; with the defect off it never does
	$(GO) test -tags demo -count=1 -timeout 10m -v ./test/demo/...

fuzz: ## every decoder's fuzz target, FUZZTIME each
	@./test/fuzz.sh

tools: ## install what the foreign-client and browser tests need (Debian, Maven, PyPI, npm packages by name)
	@./test/tools.sh

bench: build tools ## produce and intake throughput side by side with Apache Kafka and the limit probe
	$(GO) test -tags bench -count=1 -timeout 60m -v ./test/load/...

nightly: ## the same suites with bigger numbers, and the benches
	LOOPTAPE_ROUNDS=200 $(MAKE) crash
	SEEDS=50000 $(MAKE) sim
	FUZZTIME=5m $(MAKE) fuzz
	LOOPTAPE_IDLE=10m $(MAKE) idle
	LOOPTAPE_BENCH_LARGE=1 $(MAKE) bench

clean: ## remove what was built
	rm -rf bin $(CACHE) $(ARTIFACTS) web/node_modules internal/web/dist/assets internal/web/dist/index.html

.PHONY: help build pages run test vet race e2e servers sim crash failover idle compat browser demo-check fuzz tools bench nightly clean
