#!/bin/sh
# containerd and ctr for the test of `make image-tar`, of Debian's package containerd.
# Prints their folder.
#
# 25 MB the first time; kept in ~/.cache/npc/containerd, or $NPC_CONTAINERD_CACHE. With
# --cached nothing is fetched.
set -eu

folder=${NPC_CONTAINERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/containerd}
if [ ! -x "$folder/containerd" ] || [ ! -x "$folder/ctr" ]; then
	[ "${1:-}" != --cached ] || exit 1
	"$(dirname "$0")/debian.sh" containerd "$folder" containerd ctr
fi
echo "$folder"
