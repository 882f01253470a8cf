#!/bin/sh
# Checks our dependencies with cargo-deny and deny.toml: licences, sources, banned crates
# and, where the advisory database of RustSec can be fetched, known vulnerabilities. Where
# it cannot, this says so on stderr and checks the rest.
#
# cargo-deny is built once, into ~/.cache/npc/cargo-deny or $NPC_DENY_CACHE.
set -eu

# What it accepts changes between versions. Move it on with deny.toml.
version=0.20.2

cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
folder=${NPC_DENY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/cargo-deny}/$version
deny=$folder/bin/cargo-deny
if [ ! -x "$deny" ]; then
	echo "npc: building cargo-deny $version" >&2
	# Unoptimised it is built in a third of the time, and takes two seconds to check.
	"$CARGO" install --quiet --locked --debug --root "$folder" --version "=$version" cargo-deny
fi
"$deny" --log-level error check bans licenses sources
if fetched=$("$deny" --log-level error fetch db 2>&1); then
	"$deny" --offline --log-level error check advisories
else
	echo "npc: advisories are NOT CHECKED, because their database cannot be fetched:" >&2
	echo "$fetched" | tail -n 1 >&2
fi
