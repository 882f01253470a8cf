#!/bin/sh
# Compiles npc and npc-cni for an architecture, on any other, in a Debian container of the
# Rust image: `compile.sh amd64|arm64 FOLDER`.
set -eu

case $1 in
amd64) target=x86_64-unknown-linux-gnu package=gcc-x86-64-linux-gnu cc=x86_64-linux-gnu-gcc ;;
arm64) target=aarch64-unknown-linux-gnu package=gcc-aarch64-linux-gnu cc=aarch64-linux-gnu-gcc ;;
*)
	echo "compile.sh: no image for the architecture $1: amd64 or arm64" >&2
	exit 2
	;;
esac
if ! command -v "$cc" >/dev/null 2>&1; then
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends "$package" "libc6-dev-$1-cross" >/dev/null 2>&1 ||
		apt-get install -qq -y --no-install-recommends "$package" libc6-dev >/dev/null
fi
# jemalloc is built by make.
if ! command -v make >/dev/null 2>&1; then
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends make >/dev/null
fi
# Some kernels of arm64 have pages of 64 KiB, and jemalloc ends where pages are larger than it was built for.
[ "$1" != arm64 ] || export JEMALLOC_SYS_WITH_LG_PAGE=16
rustup target add "$target"
variable=$(echo "$target" | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${variable}_LINKER=$cc" "CC_$(echo "$target" | tr - _)=$cc"
cargo build --locked --profile dist --target "$target" --package npc-agent --bin npc
mkdir -p "$2"
cp "target/$target/dist/npc" "$2/npc"
# It runs on the node and not in the image, with any libraries or none: static.
RUSTFLAGS="-C target-feature=+crt-static" \
	cargo build --locked --profile dist --target "$target" --package npc-cni --bin npc-cni
cp "target/$target/dist/npc-cni" "$2/npc-cni"
