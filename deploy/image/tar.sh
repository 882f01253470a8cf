#!/bin/sh
# Makes the image as a file, without a container engine:
#
#   tar.sh NAME FILE BINARY...
#
# The file is what `docker save` writes (manifest, configuration, one layer), so
# `ctr -n k8s.io images import`, `k3s ctr images import`, `kind load image-archive`,
# `podman load` and `docker load` take it. The same binaries and the same Debian packages
# give the same bytes.
#
# The layer is the root file system of rootfs.sh and the binaries in /usr/bin, for this
# machine's architecture, and an SBOM of them in /usr/share/doc/npc. NPC_ROOTFS names a
# folder to take in place of the root file system. Needs Debian and cargo, and no root.
set -eu

name=$1 file=$2
shift 2
here=$(dirname "$(readlink -f "$0")")
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}
case $name in
*:*) ;;
*) name=$name:latest ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

if [ -n "${NPC_ROOTFS:-}" ]; then
	cp -a "$NPC_ROOTFS" "$root"
else
	"$here/rootfs.sh" "$architecture" "$root"
fi
mkdir -p "$root/usr/bin"
for binary in "$@"; do
	[ "${binary##*/}" != npc-cni ] || "$here/static.sh" "$binary"
	install -m 755 "$binary" "$root/usr/bin/"
done
# What is in it, for scanners: our crates and Debian's packages.
if [ -f "$root/usr/share/doc/packages" ]; then
	crates=
	for binary in "$@"; do
		case ${binary##*/} in
		npc) crates="$crates npc-agent" ;;
		*) crates="$crates ${binary##*/}" ;;
		esac
	done
	mkdir -p "$root/usr/share/doc/npc"
	# shellcheck disable=SC2086 # a list of crates
	"$here/sbom.sh" "$root/usr/share/doc/packages" "$architecture" $crates >"$root/usr/share/doc/npc/sbom.cdx.json"
fi
# A binary that was built on a newer system than the image's asks for a newer libc.
for loader in "$root"/lib64/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.*; do
	[ -x "$loader" ] || continue
	libraries=$(find "$root/usr/lib" -maxdepth 1 -name '*-linux-gnu*')
	for binary in "$@"; do
		# One that is static asks for none (ld.so(8), --verify).
		"$loader" --verify "$binary" >/dev/null 2>&1 || continue
		"$loader" --library-path "$libraries" "$root/usr/bin/${binary##*/}" --version >/dev/null || {
			echo "npc: ${binary##*/} does not start with the libraries of the image; build it on Debian bookworm" >&2
			exit 1
		}
	done
	break
done

mkdir "$work/image"
cd "$work/image"
pack() { tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w "$@"; }
pack -C "$root" -cf layer.tar .
layer=$(sha256sum layer.tar | cut -d' ' -f1)
# The same labels, environment and command as in deploy/Dockerfile.
cat >config.json <<-JSON
	{
	  "created": "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)",
	  "architecture": "$architecture",
	  "os": "linux",
	  "config": {
	    "Env": ["PATH=/usr/sbin:/usr/bin"],
	    "Entrypoint": ["/usr/bin/npc"],
	    "Cmd": ["agent"],
	    "Labels": {
	      "org.opencontainers.image.title": "npc",
	      "org.opencontainers.image.description": "Kubernetes NetworkPolicy, enforced with iptables and ipset",
	      "org.opencontainers.image.licenses": "Apache-2.0"
	    }
	  },
	  "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}
	}
JSON
config=$(sha256sum config.json | cut -d' ' -f1)
mv config.json "$config.json"
mkdir "$layer"
mv layer.tar "$layer/layer.tar"
echo "[{\"Config\": \"$config.json\", \"RepoTags\": [\"$name\"], \"Layers\": [\"$layer/layer.tar\"]}]" >manifest.json
pack -cf "$work/image.tar" manifest.json "$config.json" "$layer/layer.tar"
cd - >/dev/null
mkdir -p "$(dirname "$file")"
mv "$work/image.tar" "$file"
echo "npc: the image $name is in $file ($(du -h "$file" | cut -f1))" >&2
