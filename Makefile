# make            build the programs into target/release
# make help       the other targets
#
# Variables: CAMERA and MIC (demo), BENCH (bench), FUZZ_SECONDS (fuzz), SYSTEMD (test), DEPS=no (install no system packages).

CARGO ?= cargo
DEPS ?= yes
FUZZ_SECONDS ?= 30
BENCH ?= table
# Exactly the versions of Cargo.lock, and one profile for everything: see Cargo.toml.
FLAGS := --release --locked --workspace

# The fuzzer's coverage counts are a compiler option that stable Rust has, but only under this name of a nightly one.
FUZZ := RUSTC_BOOTSTRAP=1 $(CARGO) fuzz

ifeq ($(DEPS),yes)
deps = @tests/install-deps.sh $(1)
endif

.PHONY: build test demo bench deb check fuzz mutants clean help

build: ## programs in target/release (default)
	$(call deps,build)
	$(CARGO) build $(FLAGS) --bins

test: ## all tests, on real programs, codecs, displays and sound servers
	$(call deps,test)
	$(CARGO) build $(FLAGS) --bins
	$(CARGO) test $(FLAGS)
	@if [ -n '$(SYSTEMD)' ]; then tests/systemd.sh '$(SYSTEMD)'; else \
		echo "not tested: the packages under systemd (SYSTEMD=DIR with them, on a machine that may be thrown away)"; fi

demo: ## one call on this machine; CAMERA=… and MIC=… choose the devices
	$(call deps,demo)
	$(CARGO) build $(FLAGS) --bins
	target/release/vchat-demo $(if $(CAMERA),--camera '$(CAMERA)') $(if $(MIC),--mic '$(MIC)')

bench: ## calls on all networks into docs/bench.md, takes an hour; BENCH='table --only loss5' and the like measure less
	$(call deps,test)
	$(CARGO) build $(FLAGS) --bins
	target/release/vchat-bench $(BENCH)

deb: ## Debian packages of relay and client, into target/debian
	$(call deps,deb)
	$(CARGO) build $(FLAGS) --bins
	target/release/vchat-papers target/papers
	@$(CARGO) deb --version >/dev/null 2>&1 || $(CARGO) install cargo-deb --locked
	$(CARGO) deb --package vchatd --no-build --locked --strip
	$(CARGO) deb --package vchat-client --no-build --locked --strip

check: ## format and lints, as they must be for a change to be taken
	$(call deps,build)
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(FLAGS) --all-targets -- -D warnings

fuzz: ## each fuzz target for FUZZ_SECONDS; what it finds is in tests/fuzz/artifacts
	$(call deps,build)
	@$(CARGO) fuzz --version 2>/dev/null || $(CARGO) install cargo-fuzz --locked
	@set -e; cd tests; for target in $$($(CARGO) fuzz list); do \
		echo "== $$target"; $(FUZZ) run $$target --sanitizer none -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -verbosity=0; \
	done

mutants: ## change the code of keys and pairing in every way known, and see the tests fail; takes an hour
	$(call deps,build)
	@$(CARGO) mutants --version 2>/dev/null || $(CARGO) install cargo-mutants --locked
	$(CARGO) mutants --package vchat-certs --output target

clean: ## remove everything built
	$(CARGO) clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10
