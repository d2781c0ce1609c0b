# make            build the programs into target/release
# make help       the other targets
#
# Variables: CAMERA and MIC (demo), BENCH (bench), FUZZ_CASES (fuzz), DEPS=no (install no system packages).

CARGO ?= cargo
DEPS ?= yes
FUZZ_CASES ?= 20000
BENCH ?= call
# Exactly the versions of Cargo.lock, and one profile for everything: see Cargo.toml.
FLAGS := --release --locked --workspace

ifeq ($(DEPS),yes)
deps = @tests/install-deps.sh $(1)
endif

.PHONY: build test demo bench check fuzz clean help

build: ## programs in target/release (default)
	$(call deps,build)
	$(CARGO) build $(FLAGS) --bins

test: ## all tests, on real programs, codecs, displays and sound servers
	$(call deps,test)
	$(CARGO) build $(FLAGS) --bins
	$(CARGO) test $(FLAGS)

demo: ## one call on this machine; CAMERA=… and MIC=… choose the devices
	$(call deps,demo)
	$(CARGO) build $(FLAGS) --bins
	target/release/vchat-demo $(if $(CAMERA),--camera '$(CAMERA)') $(if $(MIC),--mic '$(MIC)')

bench: ## figures of a real call; BENCH='call --profile loss5' and the like measure others
	$(call deps,test)
	$(CARGO) build $(FLAGS) --bins
	target/release/vchat-bench $(BENCH)

check: ## format and lints, as they must be for a change to be taken
	$(call deps,build)
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(FLAGS) --all-targets -- -D warnings

fuzz: ## property tests with FUZZ_CASES random cases each
	$(call deps,test)
	$(CARGO) build $(FLAGS) --bins
	PROPTEST_CASES=$(FUZZ_CASES) $(CARGO) test $(FLAGS) --lib

clean: ## remove everything built
	$(CARGO) clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10
