# make help lists the targets.

GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT   := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# golangci-lint is built once, from the Go module proxy, into a cache.
LINT_VERSION := v2.15.0
TOOLS        ?= $(HOME)/.cache/xpptp-tools
LINT         := $(TOOLS)/golangci-lint-$(LINT_VERSION)

FUZZTIME     ?= 3s
BENCHTIME    ?= 200ms

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: build
build: ## bin/xpptp, one static file
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/xpptp ./cmd/xpptp

.PHONY: demo
demo: build ## serve, dial 50 calls and move encrypted traffic, in namespaces of its own
	bin/xpptp demo

.PHONY: test
test: ## all tests that need nothing but Go; those on network devices run as root only
	$(GO) test ./...

.PHONY: race
race: ## the same, shorter, under the race detector, frame ownership checked (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -short -tags framecheck ./...

.PHONY: noasm
noasm: ## without assembly, and for arm64 (built, not run)
	$(GO) vet -tags noasm ./...
	$(GO) test -tags noasm ./engine/...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) build ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...

.PHONY: fuzz-smoke
fuzz-smoke: ## every fuzz target for FUZZTIME
	.ci/fuzz-smoke $(FUZZTIME)

.PHONY: bench
bench: ## the benchmarks, each for BENCHTIME
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

.PHONY: interop
interop: ## against pppd, pptpd, pptp-linux and the kernel's PPTP in User-Mode Linux (root; installs Debian packages)
	$(GO) test -tags interop -count=1 -v -timeout 25m ./cmd/xpptp/interop

.PHONY: interop-all
interop-all: ## the same once with each backend
	for io in xsk tpacket raw; do XPPTP_IO=$$io $(GO) test -tags interop -count=1 -v -timeout 40m ./cmd/xpptp/interop || exit 1; done

.PHONY: lint
lint: $(LINT) ## golangci-lint: import rules, style, likely mistakes
	$(LINT) run ./...

.PHONY: fmt
fmt: $(LINT) ## format as lint wants it
	$(LINT) fmt ./...

$(LINT):
	mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(TOOLS)/golangci-lint $@

.PHONY: generate-check
generate-check: ## generated files are what their generators write
	$(GO) generate ./...
	git diff --exit-code -- $$(git grep -lE '^// Code generated .* DO NOT EDIT\.$$')
