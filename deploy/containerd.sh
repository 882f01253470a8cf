#!/bin/sh
# containerd and ctr for the test of `make image-tar`, of Debian's package containerd:
# it is fetched and unpacked, not installed, so no server starts. Prints their folder.
#
# 25 MB the first time; kept in ~/.cache/npc/containerd, or $NPC_CONTAINERD_CACHE. With
# --cached nothing is fetched.
set -eu

folder=${NPC_CONTAINERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/containerd}
if [ ! -x "$folder/containerd" ] || [ ! -x "$folder/ctr" ]; then
	[ "${1:-}" != --cached ] || exit 1
	mkdir -p "$folder"
	work=$(mktemp -d "$folder/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	echo "npc: fetching containerd, of Debian's package containerd" >&2
	cd "$work"
	# A new machine has no lists of packages yet.
	apt-get -qq -o APT::Sandbox::User=root download containerd >&2 || {
		apt-get -qq update >&2
		apt-get -qq -o APT::Sandbox::User=root download containerd >&2
	}
	dpkg-deb -x ./containerd_*.deb root
	# Whole or not at all, if it is killed.
	for tool in containerd ctr; do
		mv "root/usr/bin/$tool" "$folder/$tool"
	done
fi
echo "$folder"
