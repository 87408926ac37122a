# The front door. `make demo` shows a desktop, `make test` proves that everything works.
# Both install what they need (Debian packages; the tests one of npm's too, below the target directory) and say so first.

SHELL := /bin/bash
CARGO ?= cargo
# Where cargo builds; the demonstration's files always lie in the clone, below target/demo.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Whatever a cargo configuration says: the recipes run what they built.
export CARGO_TARGET_DIR := $(TARGET)
unexport CARGO_BUILD_TARGET
# What is measured; `dist` is what packages are built with and takes much longer to build.
BENCH_PROFILE ?= release
PROGRAMS := qvd qvd-hkd qvd-l7r qvd-vma qvdclient qa
DEMO_BINS := --bin qvd --bin qvd-vma --bin qvdclient --bin qa --bin qvd-demo

# How long `make fuzz` runs each of its targets. (Not from the environment: a shell counts its own SECONDS.)
SECONDS := 60

.DEFAULT_GOAL := help
.PHONY: help demo clean-demo test test-fast lint doc man conformance upgrade-test handover fuzz bench bench-storm bench-profile bench-desktop
.PHONY: build

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: ## a real desktop over NX through all parts; KEEP=1 leaves it running
	@.ci/setup demo
	@echo "demo: building (first time: some minutes; later: seconds)"
	@$(CARGO) build --profile quick $(DEMO_BINS)
	@.ci/apparmor "$(TARGET)/quick/qvd"
	@exec "$(TARGET)/quick/qvd-demo"

clean-demo: ## ends a demonstration left running, and removes its data
	@[ ! -e target/demo ] || $(CARGO) build --quiet --profile quick $(DEMO_BINS)
	@[ ! -e target/demo ] || "$(TARGET)/quick/qvd-demo" --clean

build: ## all programs, for development
	@.ci/setup build
	$(CARGO) build --workspace

test: ## everything that CI runs: format, lints, docs, all tests on real parts
	@.ci/setup test
	@.ci/test all

test-fast: ## the tests alone
	@.ci/setup test
	@.ci/test tests

lint: ## format, clippy, docs, licences
	@.ci/setup build
	@.ci/test lint

doc: ## the API documentation, below $(TARGET)/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

man: ## the manual pages, below $(TARGET)/man
	@.ci/setup build
	@$(CARGO) build --quiet --profile quick $(foreach program,$(PROGRAMS),--bin $(program))
	@mkdir -p "$(TARGET)/man"
	@set -e; for program in $(PROGRAMS); do "$(TARGET)/quick/$$program" --generate-manual "$(TARGET)/man"; done
	@ls "$(TARGET)/man"

conformance: ## every row of the protocol's conformance table, against the programs
	@.ci/setup test
	@$(CARGO) build --quiet --workspace --bins
	@"$(TARGET)/debug/qvd-conformance"

upgrade-test: ## routers are succeeded while people work: nobody is dropped, nobody refused
	@.ci/setup test
	@$(CARGO) build --quiet --workspace --bins
	@"$(TARGET)/debug/qvd-upgrade"

handover: ## the full sweep of cut hand-overs; takes long
	@.ci/setup test
	$(CARGO) build --workspace --bins
	@"$(TARGET)/debug/qvd-handover" --dangerous --guard 0
	@"$(TARGET)/debug/qvd-handover" --full

fuzz: ## every parser of foreign bytes against invented ones; SECONDS=600 for longer
	@.ci/setup fuzz
	@.ci/fuzz $(SECONDS)

bench: ## ours against HAProxy, nginx and a plain copy, in one run; PARTS="bulk trips" for some of it, RECORD=1 keeps the results
	@.ci/setup bench
	$(CARGO) build --profile $(BENCH_PROFILE) -p qvd-l7r-bin -p qvd-hkd-bin -p qvd-benches
	@$(if $(RECORD),QVD_BENCH_RESULTS=benches/RESULTS.md) "$(TARGET)/$(BENCH_PROFILE)/qvd-bench" $(PARTS)

bench-storm: ## a thousand users log in within a minute; part of `make bench`
	@$(MAKE) --no-print-directory bench PARTS=storm

bench-profile: ## where the router's time goes: FIGURE=down-16 (up-1, trip-50, session, ping), PARTY=ours (haproxy, plain-copy)
	@.ci/setup profile
	$(CARGO) build --profile $(BENCH_PROFILE) -p qvd-l7r-bin -p qvd-benches
	@"$(TARGET)/$(BENCH_PROFILE)/qvd-bench" profile $(or $(FIGURE),down-16) $(or $(PARTY),ours)

bench-desktop: ## from the start of the client to first pixels, and the memory of each process
	@.ci/setup bench
	$(CARGO) build --profile $(BENCH_PROFILE) --workspace --bins
	@"$(TARGET)/$(BENCH_PROFILE)/first_pixels"
