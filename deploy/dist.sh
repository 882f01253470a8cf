#!/bin/sh
# Makes the release of this machine's architecture in target/dist-files: the
# binaries as a tarball, an SBOM of what is compiled into each (CycloneDX, by
# cargo-cyclonedx), and SHA256SUMS. With NPC_SIGN_KEY, the file of an SSH private key,
# also SHA256SUMS.sig:
#
#   ssh-keygen -Y verify -f ALLOWED_SIGNERS -I IDENTITY -n npc-release -s SHA256SUMS.sig <SHA256SUMS
#
# The same commit by the same Rust gives the same bytes: paths are cut from the
# binaries, and the tarball has the commit's time, one owner and sorted names.
#
# A test makes it of binaries that are built already: NPC_DIST_BINARIES names
# their folder, NPC_DIST_FILES where the files go instead, and with
# NPC_DIST_SBOM=no there are no SBOMs.
set -eu

# What is shipped, as folder:binary. `npc install-cni` puts npc-cni on a node, where it runs
# with any libraries or none: it is static.
shipped="agent:npc cni-plugin:npc-cni"

cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
out=${NPC_DIST_FILES:-target/dist-files}
binaries=${NPC_DIST_BINARIES:-}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
target=$(rustc -vV | sed -n 's/^host: //p')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
name=npc-$version-$target

if [ -z "$binaries" ]; then
	# Paths of this machine do not belong into a release.
	RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=/npc --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
	export RUSTFLAGS
	binaries=target/$target/dist
	# Some kernels of arm64 have pages of 64 KiB, and jemalloc ends where pages are larger than it was built for.
	case $target in aarch64-*) export JEMALLOC_SYS_WITH_LG_PAGE=16 ;; esac
	for each in $shipped; do
		flags=$RUSTFLAGS
		[ "${each#*:}" != npc-cni ] || flags="$flags -C target-feature=+crt-static"
		# With a target, the flags leave out what runs while cargo builds.
		RUSTFLAGS=$flags "$CARGO" build --locked --profile dist --target "$target" \
			--manifest-path "${each%:*}/Cargo.toml" --bin "${each#*:}"
	done
fi

deploy/image/static.sh "$binaries/npc-cni"
rm -rf "$out"
mkdir -p "$out/$name/deploy"
for each in $shipped; do
	cp "$binaries/${each#*:}" "$out/$name/"
done
cp LICENSE README.md CHANGELOG.md ARCHITECTURE.md "$out/$name/"
# All that the documents lead to, but for what takes the sources.
cp -R docs "$out/$name/"
cp -R deploy/README.md deploy/aks.md deploy/systemd deploy/kustomize deploy/chart "$out/$name/deploy/"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w \
	-C "$out" -cf - "$name" | gzip -n -9 >"$out/$name.tar.gz"
rm -rf "${out:?}/$name"

if [ "${NPC_DIST_SBOM:-}" != no ]; then
	# It writes one beside the manifest of each crate of the workspace that is
	# in the binary, and knows no other place.
	trap 'rm -f ./*/npc-sbom.json' EXIT
	command -v cargo-cyclonedx >/dev/null || "$CARGO" install --quiet --locked cargo-cyclonedx
	for each in $shipped; do
		"$CARGO" cyclonedx --quiet --manifest-path "${each%:*}/Cargo.toml" --format json --spec-version 1.5 \
			--no-build-deps --target "$target" --override-filename npc-sbom
		sed "s#file://$PWD#file:///npc#g" "${each%:*}/npc-sbom.json" >"$out/${each#*:}-$version-$target.cdx.json"
	done
fi
(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS)
if [ -n "${NPC_SIGN_KEY:-}" ]; then
	ssh-keygen -q -Y sign -f "$NPC_SIGN_KEY" -n npc-release "$out/SHA256SUMS"
fi
ls -l "$out"
