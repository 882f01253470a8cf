#!/bin/sh
# Runs npc from the image's own root file system, where no container engine is
# needed: a read-only root, a network namespace of its own, no capability but
# NET_ADMIN and NET_RAW (and SYS_CHROOT, to get in), and on each backend the
# same rules as outside.
#
#   check.sh NPC [FOLDER]      the binary; manifests with a node-1, ours by default
#
# As root, on Debian.
set -eu

npc=$(readlink -f "$1")
here=$(dirname "$(readlink -f "$0")")
manifests=$(readlink -f "${2:-$here/check}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

"$here/rootfs.sh" "$(dpkg --print-architecture)" "$root"
cp "$npc" "$root/usr/bin/npc"
# What the DaemonSet mounts: the lock, the objects in place of the API server.
touch "$root/run/xtables.lock" "$work/xtables.lock" "$root/dev/null"
mkdir "$root/etc/npc/manifests"

cat >"$work/inside" <<'INSIDE'
set -eu
root=$1 manifests=$2 lock=$3 backend=$4
mount --bind "$root" "$root"
mount --bind "$manifests" "$root/etc/npc/manifests"
mount --bind "$lock" "$root/run/xtables.lock"
mount --bind /dev/null "$root/dev/null"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
confined() {
	setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+net_raw,+sys_chroot \
		env -i PATH=/usr/sbin:/usr/bin chroot "$root" "$@"
}
# One of the other backend's and one of ours, for detection and a read-back to meet.
confined "iptables-$backend" -A FORWARD -m comment --comment 'another program' -m mark --mark 1 -j ACCEPT
confined npc agent --once --node node-1 --manifests /etc/npc/manifests --backend "$backend"
for tool in iptables ip6tables; do
	# By the machine's own tools: what is in the kernel is there for others too.
	rules=$("$tool-$backend-save" -t filter | grep -c '^-A NPC-')
	first=$("$tool-$backend" -S FORWARD | sed -n 2p)
	echo "$backend $tool: $rules rules, FORWARD begins with: $first"
	[ "$rules" -gt 5 ] && [ "$first" = "-A FORWARD -j NPC-FORWARD" ]
done
# Again over what is there, and by itself: it finds the backend and stays.
confined npc agent --once --node node-1 --manifests /etc/npc/manifests
confined npc cleanup
! "iptables-$backend-save" -t filter | grep NPC-
"iptables-$backend-save" -t filter | grep -q 'another program'
INSIDE

for backend in nft legacy; do
	unshare --net --mount sh "$work/inside" "$root" "$manifests" "$work/xtables.lock" "$backend"
done
echo "the image's root file system: $(du -sh "$root" | cut -f1), of which npc $(du -h "$root/usr/bin/npc" | cut -f1)"
