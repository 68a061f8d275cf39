# What a maintainer runs. Each recipe is one step; hack/ holds what does not fit on a line.
CARGO ?= cargo
.DEFAULT_GOAL := help

# This list.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z-]+:/{split($$1,name,":"); if (text) printf "  make %-12s %s\n", name[1], text} !/^# /{text=""}' Makefile

# The whole thing on real mounts: three pods, a rotation, a clean removal. KEEP=1 leaves it running.
demo:
	@hack/demo.sh

# Everything that needs no cluster. What must be installed first is installed.
test: prepare
	$(CARGO) build -p csi-node --bins --features fault-points
	cp target/debug/akv-csi target/debug/akv-csi-fault-points
	$(CARGO) build --workspace --bins
	hack/as-mounter.sh --if-possible $(CARGO) test --workspace
	hack/csi-sanity.sh
	hack/sarif-check.sh
	hack/sdk-check.sh
	hack/observability.sh

# What a fresh machine lacks: a C compiler for the crypto library, Rust, tools for the tests.
prepare:
	@hack/prepare.sh test
	@hack/chart.sh install

# Formatting, lints, documentation, dependency rules.
check: prepare
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps
	hack/deny.sh
	hack/chart.sh check
	hack/docs.sh

# Each fuzz target for a short while; FUZZ_SECONDS=600 for longer.
FUZZ_SECONDS ?= 20
fuzz:
	@hack/fuzz.sh $(FUZZ_SECONDS)

# Latency, bursts, rotation, memory and start-up, measured; a few minutes, as root or in a user namespace.
bench: prepare
	$(CARGO) build --release -p csi-node -p e2e -p bench --bins
	hack/as-mounter.sh target/release/bench

# Fleets of up to 5,000 nodes on one Key Vault, simulated on a virtual clock: docs/fleet.md. Some minutes.
fleet: prepare
	$(CARGO) run --release -p fleet

# What is made from the Helm chart: deploy/manifests and the tables of its README. `make test` compares them.
manifests:
	@hack/chart.sh manifests

# The driver in a real single-node Kubernetes, every case; as root. The first run builds Kubernetes, which takes a while.
e2e:
	@hack/cluster.sh e2e

# The same cluster, left running for work by hand.
cluster:
	@hack/cluster.sh up

# The image: a static binary and CA certificates, as a tar for ctr, podman and docker. ARCH=arm64 for the other one.
image:
	@hack/image.sh $(if $(ARCH),--arch $(ARCH))

# The optimised binary.
build:
	$(CARGO) build --release -p csi-node

.PHONY: help demo test prepare check fuzz bench fleet manifests e2e cluster image build
