# What can be done here. `make help` lists it.

GO        ?= go
BIN       := bin/flistnode
LINT      := bin/golangci-lint
LINT_VER  := v2.6.2
GOTESTSUM := bin/gotestsum
SUM_VER   := v1.13.0
VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -X main.version=$(VERSION)

.PHONY: help build demo test test-fast lint fuzz suites vm bench man completions clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/flistnode
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/flistnode

demo: build ## the main job: a directory packed on one node, mounted by CID on another (DIR=... to choose it)
	$(BIN) testnet demo $(DIR)

test: lint $(GOTESTSUM) ## all tests under the race detector, and the linters; names what was skipped
	$(GOTESTSUM) --format pkgname-and-test-fails --jsonfile bin/test.json -- -race -timeout 15m ./...

test-fast: ## all tests without the race detector and linters
	$(GO) test ./...

lint: $(LINT) ## format, vet and lint
	$(LINT) run ./...

$(LINT): Makefile
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VER)
	touch $(LINT)

$(GOTESTSUM): Makefile
	GOBIN=$(CURDIR)/bin $(GO) install gotest.tools/gotestsum@$(SUM_VER)
	touch $(GOTESTSUM)

fuzz: ## fuzz everything that reads bytes from disk or network, FUZZTIME each
	$(GO) list ./... | while read -r p; do \
	  $(GO) test -list '^Fuzz' $$p | grep '^Fuzz' | while read -r f; do \
	    $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),30s) $$p || exit 1; done || exit 1; done

suites: ## public test suites on mounts of a usual directory: posixtest, stress-ng, fio (DIR=... to choose it)
	SUITES_DIR=$(abspath $(DIR)) $(GO) test -tags suites -count=1 -v -timeout 20m -run '^TestSuite' ./testnet

vm: build ## a root file system booted over virtiofs to a shell prompt, in software emulation (ROOT=... to choose it)
	testnet/vm.sh $(BIN) $(ROOT)

bench: build ## the benchmarks as tables: figure, what it is compared with, ratio (ROOT=... for a root file system)
	mkdir -p bench/out
	$(BIN) bench all $(if $(ROOT),--root $(ROOT)) --out bench/out/bench.json --plots bench/out

man: build ## man pages into bin/man
	$(BIN) docs man bin/man

completions: build ## shell completions into bin/completions
	mkdir -p bin/completions
	for s in bash zsh fish; do $(BIN) completion $$s > bin/completions/flistnode.$$s; done

clean: ## remove what was built
	rm -rf bin bench/out
