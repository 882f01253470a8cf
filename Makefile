# The two commands are `make run` and `make test`; both do all set-up on a
# fresh Debian machine with Rust, as root.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
SHOP := deploy/examples/shop

IMAGE ?= npc:0.1.0
PLATFORMS ?=
# What image-tar builds npc with: dist is small and takes long, release is built sooner.
PROFILE ?= dist
# This machine, as Rust names it. npc-cni is static, which takes a named target.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# Random tests take their cases from here, so that two runs test the same.
SEED ?= 1

# How many tests run at once, and how many of the program `lab`. Most tests of that
# wait: for an agent, for a packet that does not come. So more can run than there are processors;
# tests/lab/src/lab/share.rs lets fewer of those run at once that are busy. With two for each
# processor, some miss their times on a machine with other work.
THREADS ?= $(shell nproc)
WAITING_THREADS ?= $(shell echo $$(($(THREADS) + $(THREADS) / 2)))

.PHONY: help run test test-full tools apiserver promtool lint deny bench docs fuzz image image-tar image-check dist reproduce manifests schemas setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# --workspace, here and below, gives the libraries the same features everywhere. So `make
# test` builds nothing again that `make run` has built, and `make run` builds no library
# that only tests need.
run: setup ## a small cluster in network namespaces: real agents, real packets, expected against seen
	$(CARGO) build --workspace --bin npc --bin npc-lab
	$(TARGET)/debug/npc-lab run -f $(SHOP)

test: setup ## every test; after `make tools` also those of Helm, kubectl, promtool and containerd; samples that stay the same
	$(CARGO) build --workspace --bins
	RUSTFLAGS="-C target-feature=+crt-static" \
	$(CARGO) build --locked --profile dist --target $(HOST) --package npc-cni --bin npc-cni
	previous=$$(deploy/previous.sh) || previous=; \
	failures=$(abspath $(TARGET))/failures.txt; rm -f "$$failures"; \
	skipped=$${NPC_SKIPPED:-$(abspath $(TARGET))/skipped.txt}; : >"$$skipped"; status=0; \
	PATH="$$(deploy/tools.sh --cached)" PROPTEST_RNG_SEED=$(SEED) RUST_TEST_THREADS=$(THREADS) NPC_WAITING_THREADS=$(WAITING_THREADS) \
		CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER=$(abspath tests/runner.sh) NPC_FAILURES="$$failures" \
		NPC_SKIPPED="$$skipped" CARGO="$(CARGO)" env $${previous:+NPC_PREVIOUS="$$previous"} tests/run.sh || status=$$?; \
	deploy/image/static.sh $(TARGET)/$(HOST)/dist/npc-cni || status=$$?; \
	[ "$$status" = 0 ] || cat "$$failures" 2>/dev/null; \
	[ ! -s "$$skipped" ] || { echo "these tests did not run:"; sort -u "$$skipped"; }; \
	exit "$$status"

test-full: tools ## the same with new samples, a million packets, thousands of clusters, and all that make can fetch
	assets=$$(deploy/apiserver.sh) && \
	KUBEBUILDER_ASSETS=$$assets NPC_FULL=1 NPC_FUZZ_SHAPES=1000000 NPC_EVERY_PROBE=1 NPC_CASES=5000 PROPTEST_CASES=4000 NPC_CNI_PODS=500 NPC_CNI_FLOWS=150000 \
		NPC_CNI_MILLISECONDS=1000 NPC_CNI_AWAY_SECONDS=600 NPC_CNI_MEASURED=20 NPC_CNI_SERVER_AWAY_SECONDS=60 \
		NPC_CNI_SEQUENCES=100 $(MAKE) --no-print-directory test SEED=$$(date +%s)
	$(MAKE) --no-print-directory image-check

tools: ## Helm, kubectl, promtool and containerd for the tests; prints a PATH with them
	@deploy/tools.sh

apiserver: ## a real kube-apiserver and etcd for the tests; prints their folder, for KUBEBUILDER_ASSETS
	@deploy/apiserver.sh

promtool: ## promtool for the tests of the alert rules; prints its path
	@deploy/promtool.sh

lint: ## formatting, lints and rustdoc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) check --quiet --package npc-compiler --lib --example shop # the facade alone
	@$(MAKE) --no-print-directory docs

deny: ## licences, sources, duplicates and known vulnerabilities of our dependencies
	@deploy/deny.sh

bench: setup ## the figures in benches/README.md
	$(CARGO) build --workspace --release --bins
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --target $(HOST) --package npc-cni --bin npc-cni
	NPC_CNI=$(abspath $(TARGET))/$(HOST)/release/npc-cni $(CARGO) bench --workspace --bench '*'

# Private items are documented, so what links to one leads somewhere.
docs: ## rustdoc of the workspace
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

fuzz: setup ## libFuzzer for all that reads manifests, listings, netlink and CNI: NPC_FUZZ_SECONDS (60) each
	@CARGO="$(CARGO)" fuzz/run.sh

image: ## the container image IMAGE, for PLATFORMS, where a container engine is (NPC_PUSH=1 pushes it)
	@deploy/image/build.sh "$(IMAGE)" "$(PLATFORMS)"

image-tar: setup ## the container image IMAGE as a file, without a container engine, in target/npc-image.tar
	$(CARGO) build --locked --profile $(PROFILE) --package npc-agent --bin npc
	RUSTFLAGS="-C target-feature=+crt-static" \
	$(CARGO) build --locked --profile $(PROFILE) --target $(HOST) --package npc-cni --bin npc-cni
	deploy/image/tar.sh "$(IMAGE)" $(TARGET)/npc-image.tar $(TARGET)/$(PROFILE)/npc $(TARGET)/$(HOST)/$(PROFILE)/npc-cni

image-check: setup ## npc, run from the image's own root file system, without a container engine
	$(CARGO) build --workspace --bin npc
	deploy/image/check.sh $(TARGET)/debug/npc

dist: setup ## release binaries as a tarball, with SBOMs and checksums (signed, with NPC_SIGN_KEY), in target/dist-files
	@deploy/dist.sh

reproduce: setup ## the release twice, from two folders: the bytes must be the same
	@deploy/reproduce.sh

manifests: ## write deploy/kustomize from deploy/chart
	NPC_WRITE=1 $(CARGO) test --workspace --test deploy the_kustomize_folders

schemas: ## write deploy/schemas/kubernetes.json, after k8s-openapi changed
	CARGO_TARGET_DIR=target/schemas $(CARGO) run --quiet --manifest-path deploy/schemas/Cargo.toml >target/kubernetes.json
	mv target/kubernetes.json deploy/schemas/kubernetes.json

setup: ## install what is missing
	@deploy/setup.sh

clean: ## remove what builds made, and what a killed lab left behind
	-$(TARGET)/debug/npc-lab clean
	$(CARGO) clean
