#!/bin/sh
# promtool for the tests of the alert rules, of Debian's package prometheus: it
# is fetched and unpacked, not installed, so no server starts. Prints the path.
#
# 20 MB the first time; kept in ~/.cache/npc/promtool, or $NPC_PROMTOOL_CACHE. With
# --cached nothing is fetched.
set -eu

folder=${NPC_PROMTOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/promtool}
if command -v promtool; then
	exit 0
fi
if [ ! -x "$folder/promtool" ]; then
	[ "${1:-}" != --cached ] || exit 1
	mkdir -p "$folder"
	work=$(mktemp -d "$folder/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	echo "npc: fetching promtool, of Debian's package prometheus" >&2
	cd "$work"
	# A new machine has no lists of packages yet.
	apt-get -qq -o APT::Sandbox::User=root download prometheus >&2 || {
		apt-get -qq update >&2
		apt-get -qq -o APT::Sandbox::User=root download prometheus >&2
	}
	dpkg-deb -x ./prometheus_*.deb root
	# Whole or not at all, if it is killed.
	mv root/usr/bin/promtool "$folder/promtool"
fi
echo "$folder/promtool"
