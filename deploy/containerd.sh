#!/bin/sh
# containerd with its shim, ctr and runc for the tests of `make image-tar` and of the CNI
# plugin, of Debian's packages. Prints their folder.
#
# In the folder `next` is containerd 2 with reference plugins that speak CNI 1.1.0, both
# of a later Debian: they run with this one's libraries.
#
# 130 MB the first time; kept in ~/.cache/npc/containerd, or $NPC_CONTAINERD_CACHE. With
# --cached nothing is fetched. Where only `next` cannot be had, the rest is printed.
set -eu

folder=${NPC_CONTAINERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/containerd}
here=$(dirname "$(readlink -f "$0")")
shim=containerd-shim-runc-v2
lacks() { # program...
	for program; do [ -x "$folder/$program" ] || return 0; done
	return 1
}
if lacks containerd ctr $shim runc; then
	[ "${1:-}" != --cached ] || exit 1
	"$here/debian.sh" containerd "$folder" containerd ctr $shim
	"$here/debian.sh" runc "$folder" usr/sbin/runc
fi
if lacks next/containerd next/$shim next/ptp && [ "${1:-}" != --cached ]; then
	export NPC_DEBIAN_RELEASE=sid
	if ! "$here/debian.sh" containerd "$folder/next" containerd $shim ||
		! "$here/debian.sh" containernetworking-plugins "$folder/next" \
			usr/lib/cni/ptp usr/lib/cni/portmap usr/lib/cni/host-local usr/lib/cni/loopback; then
		echo "npc: containerd 2 cannot be fetched; its tests are skipped" >&2
	fi
fi
echo "$folder"
