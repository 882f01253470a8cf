#!/bin/sh
# promtool for the tests of the alert rules, of Debian's package prometheus. Prints the
# path.
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
	"$(dirname "$0")/debian.sh" prometheus "$folder" promtool
fi
echo "$folder/promtool"
