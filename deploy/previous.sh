#!/bin/sh
# The npc of an earlier commit, built from this repository's history: the tests of
# upgrades and rollbacks run it beside today's. Prints its path. Beside it, in the folder `cni`, are
# the first npc-cni and the npc of its commit.
#
# Kept in ~/.cache/npc/previous, or $NPC_PREVIOUS_CACHE. Exits with 3 if this checkout lacks the history, and
# with something else if a build fails.
set -eu

# Before the chains of NPC-FORWARD were laid out anew. Move it on when nodes no
# longer run agents that old.
commit=117c793bee1f7fd9aceef384160f4235832a9c84
# The first with the CNI plugin and an agent that serves it.
cni_commit=93f6c8a1473ec43d54648bf64051d4bff0fd42e4

top=$(cd "$(dirname "$0")/.." && pwd)
folder=${NPC_PREVIOUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/previous}/$commit

# build COMMIT FOLDER PROGRAM...: programs of a commit, into a folder.
build() {
	of=$1 into=$2
	shift 2
	missing=
	for program; do
		[ -x "$into/$program" ] || missing="$missing $program"
	done
	[ -n "$missing" ] || return 0
	if ! git -C "$top" cat-file -e "$of^{commit}" 2>/dev/null; then
		echo "npc: no npc of an earlier commit: this checkout lacks $of (fetch the whole history)" >&2
		exit 3
	fi
	mkdir -p "$into"
	work=$(mktemp -d "$into/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	echo "npc: building$missing of $of" >&2
	git -C "$top" archive "$of" | tar -x -C "$work"
	# With the profile of today's libraries, and in today's build folder (cargo 1.91; an older one builds in
	# the target folder): most libraries are the same ones, and are built there already or soon. What
	# is built goes to a target folder of its own, because the programs have the names of today's.
	sed -i '/^\[profile\./,$d' "$work/Cargo.toml"
	sed -n '/^\[profile\.dev/,/^# What `make dist`/p' "$top/Cargo.toml" | sed '/^npc-/d' >>"$work/Cargo.toml"
	CARGO_INCREMENTAL=0 CARGO_BUILD_BUILD_DIR="${CARGO_TARGET_DIR:-$top/target}" \
		"${CARGO:-cargo}" build --quiet --locked --manifest-path "$work/Cargo.toml" --target-dir "$work/target" \
		--workspace $(printf -- '--bin %s ' $missing) >&2
	# Whole or not at all, if it is killed or another run does the same: one file system.
	for program in $missing; do
		mv "$work/target/debug/$program" "$into/$program"
	done
	rm -rf "$work"
}

build "$commit" "$folder" npc
# The tests of upgrades can do without these.
(build "$cni_commit" "$folder/cni" npc npc-cni) || echo "npc: no tests with the first npc-cni" >&2
echo "$folder/npc"
