# The two commands are `make run` and `make test`; both do all set-up on a
# fresh Debian machine with Rust, as root.

CARGO ?= cargo
SHOP := deploy/examples/shop

IMAGE ?= npc:0.1.0
PLATFORMS ?=

.PHONY: help run test test-full apiserver promtool lint deny bench docs image image-check dist manifests schemas setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: setup ## a small cluster in network namespaces: real agents, real packets, expected against seen
	$(CARGO) build --bins
	target/debug/npc-lab run -f $(SHOP)

test: setup ## every test
	previous=$$(deploy/previous.sh) || previous=; \
	$(CARGO) build --workspace --bins && \
	$${previous:+env NPC_PREVIOUS=$$previous} $(CARGO) test --workspace

test-full: ## every test, with a million shapes of packets and thousands of clusters instead of samples
	NPC_FUZZ_SHAPES=1000000 NPC_CASES=5000 $(MAKE) --no-print-directory test

apiserver: ## a real kube-apiserver and etcd for the tests; prints their folder, for KUBEBUILDER_ASSETS
	@deploy/apiserver.sh

promtool: ## promtool for the tests of the alert rules; prints its path
	@deploy/promtool.sh

lint: ## formatting, lints and rustdoc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(MAKE) --no-print-directory docs

deny: ## licences, sources and duplicates of our dependencies
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

bench: setup ## the figures in benches/README.md
	$(CARGO) build --workspace --release --bins
	$(CARGO) bench --workspace --bench '*'

# Private items are documented, so what links to one leads somewhere.
docs: ## rustdoc of the workspace
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

image: ## the container image IMAGE, for PLATFORMS, where a container engine is (NPC_PUSH=1 pushes it)
	@deploy/image/build.sh "$(IMAGE)" "$(PLATFORMS)"

image-check: setup ## npc, run from the image's own root file system, without a container engine
	$(CARGO) build --package npc-agent --bin npc
	deploy/image/check.sh target/debug/npc

dist: setup ## release binaries as a tarball, with SBOMs and checksums, in target/dist-files
	@deploy/dist.sh

manifests: ## write deploy/kustomize from deploy/chart
	NPC_WRITE=1 $(CARGO) test --package npc-lab --test deploy the_kustomize_folders

schemas: ## write deploy/schemas/kubernetes.json, after k8s-openapi changed
	CARGO_TARGET_DIR=target/schemas $(CARGO) run --quiet --manifest-path deploy/schemas/Cargo.toml >target/kubernetes.json
	mv target/kubernetes.json deploy/schemas/kubernetes.json

setup: ## install what is missing
	@deploy/setup.sh

clean: ## remove what builds made, and what a killed lab left behind
	-target/debug/npc-lab clean
	$(CARGO) clean
