#!/bin/sh
# Makes the release of the last commit twice, from two checkouts in folders of different
# names, and compares the bytes. Takes two release builds.
set -eu

cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/npc-reproduce.XXXXXX")
trap 'rm -rf "$work"' EXIT
for folder in one another-with-a-longer-name; do
	git clone --quiet --local --no-hardlinks . "$work/$folder"
	NPC_DIST_FILES=$work/files/$folder "$work/$folder/deploy/dist.sh" >&2
	# Room for the other's.
	rm -rf "$work/$folder"
done
if ! diff -r "$work/files/one" "$work/files/another-with-a-longer-name"; then
	echo "npc: two builds of one commit differ" >&2
	exit 1
fi
echo "npc: two builds of one commit have the same bytes:"
cat "$work/files/one/SHA256SUMS"
