# The two commands are `make run` and `make test`; both do all set-up on a
# fresh Debian machine with Rust, as root.

CARGO ?= cargo
SHOP := deploy/examples/shop

.PHONY: help run test lint deny bench docs setup clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: setup ## a small cluster in network namespaces: real agents, real packets, expected against seen
	$(CARGO) build --bins
	target/debug/npc-lab run -f $(SHOP)

test: setup ## every test
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace

lint: ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

deny: ## licences, sources and duplicates of our dependencies
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

bench: setup ## the figures in benches/README.md
	$(CARGO) bench --workspace

docs: ## rustdoc of the workspace
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

setup: ## install what is missing
	@deploy/setup.sh

clean: ## remove what builds made, and what a killed lab left behind
	-target/debug/npc-lab clean
	$(CARGO) clean
