#!/bin/sh
# Makes the release of this machine's architecture in target/dist-files: the
# binaries as a tarball, an SBOM of what is compiled into them (CycloneDX, by
# cargo-cyclonedx), and SHA256SUMS.
#
# The same commit by the same Rust gives the same bytes: paths are cut from the
# binaries, and the tarball has the commit's time, one owner and sorted names.
set -eu

cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
out=target/dist-files
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
target=$(rustc -vV | sed -n 's/^host: //p')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
name=npc-$version-$target

# Where the sources and the crates lie says nothing to anybody else.
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=/npc --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export RUSTFLAGS
"$CARGO" build --locked --profile dist --package npc-agent --package npc-cni --bins

rm -rf "$out"
mkdir -p "$out/$name"
cp target/dist/npc target/dist/npc-cni LICENSE README.md CHANGELOG.md "$out/$name/"
mkdir -p "$out/$name/deploy"
cp -R deploy/systemd deploy/kustomize deploy/chart "$out/$name/deploy/"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w \
	-C "$out" -cf - "$name" | gzip -n -9 >"$out/$name.tar.gz"
rm -rf "${out:?}/$name"

# It writes one beside each crate's manifest, and knows no other place.
command -v cargo-cyclonedx >/dev/null || "$CARGO" install --quiet --locked cargo-cyclonedx
"$CARGO" cyclonedx --quiet --manifest-path agent/Cargo.toml --format json --spec-version 1.5 --no-build-deps \
	--target "$target" --override-filename npc-sbom
for crate in agent:npc cni-plugin:npc-cni; do
	sed "s#file://$PWD#file:///npc#g" "${crate%:*}/npc-sbom.json" >"$out/${crate#*:}-$version-$target.cdx.json"
done
rm -f ./*/npc-sbom.json
(cd "$out" && sha256sum ./*.tar.gz ./*.cdx.json | sed 's# \./# #' >SHA256SUMS)
ls -l "$out"
