#!/bin/sh
# Writes an SBOM of the whole image to stdout (CycloneDX 1.5): every crate that is compiled
# into our binaries, and every Debian package of the root file system.
#
#   sbom.sh PACKAGES ARCHITECTURE [CRATE...]
#
# PACKAGES is the file that rootfs.sh leaves in the image (usr/share/doc/packages), with a
# line "NAME VERSION ARCHITECTURE" for each package. ARCHITECTURE is the image's, as Debian
# names it. CRATE is a package of this workspace; npc-agent by default.
#
# Needs cargo and the sources, and fetches nothing once they are there. The same commit
# and the same packages give the same bytes.
set -eu

packages=$1
case $2 in
amd64) target=x86_64-unknown-linux-gnu ;;
arm64) target=aarch64-unknown-linux-gnu ;;
*)
	echo "sbom.sh: no image for the architecture $2: amd64 or arm64" >&2
	exit 2
	;;
esac
shift 2
[ $# -gt 0 ] || set -- npc-agent
here=$(dirname "$(readlink -f "$0")")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
work=$(mktemp)
trap 'rm -f "$work"' EXIT

# What the compiler links in, not what only builds or tests.
for crate; do
	"${CARGO:-cargo}" tree --quiet --locked --manifest-path "$here/../../Cargo.toml" --package "$crate" \
		--edges normal --target "$target" --prefix none --format '{p}|{l}'
done >"$work"
# Of "NAME vVERSION (source)|LICENCE"; "(*)" marks what was listed before.
crates=$(sed 's/ (.*)|/|/; s/ (\*)$//' "$work" | sort -u | awk -F'|' '{
	split($1, crate, " v")
	licence = $2 == "" ? "" : ",\"licenses\":[{\"expression\":\"" $2 "\"}]"
	# The form with a slash is an old way to write OR.
	gsub("/", " OR ", licence)
	purl = "pkg:cargo/" crate[1] "@" crate[2]
	printf "{\"type\":\"library\",\"bom-ref\":\"%s\",\"name\":\"%s\",\"version\":\"%s\",\"purl\":\"%s\"%s}\n",
		purl, crate[1], crate[2], purl, licence
}')
debian=$(sort -u "$packages" | awk '{
	version = $2
	# A colon (epoch), a plus and a tilde are escaped or kept as the purl specification says.
	gsub(":", "%3A", version); gsub("\\+", "%2B", version)
	purl = "pkg:deb/debian/" $1 "@" version "?arch=" $3
	printf "{\"type\":\"library\",\"bom-ref\":\"%s\",\"name\":\"%s\",\"version\":\"%s\",\"purl\":\"%s\"}\n", purl, $1, $2, purl
}')
printf '{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"metadata":{"component":{"type":"container","bom-ref":"npc","name":"npc","version":"%s"}},"components":[\n' "$version"
printf '%s\n%s\n' "$crates" "$debian" | sed '/^$/d' | sed '$!s/$/,/'
printf ']}\n'
