#!/bin/sh
# Installs what npc needs of a Debian machine and that is not there yet:
# both iptables backends, ipset, ip(8) and nft(8) for the lab. Does nothing, and asks
# no registry, where all of it is.
set -eu

missing=
need() { # program package
	command -v "$1" >/dev/null 2>&1 && return
	case " $missing " in
	*" $2 "*) ;;
	*) missing="$missing $2" ;;
	esac
}
PATH="$PATH:/usr/sbin:/sbin"
need iptables-nft-restore iptables
need iptables-legacy-restore iptables
need ipset ipset
need ip iproute2
need nft nftables # what other programs write, in tests
need /usr/lib/cni/bridge containernetworking-plugins # the chain of CNI plugins, in a test
need faketime faketime # clocks that jump, in a test
need ssh-keygen openssh-client # signs a release
need cc "gcc libc6-dev"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "npc: missing:$missing. Install these as root (apt-get install$missing), or run make as root." >&2
	exit 1
fi
echo "npc: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
apt-get install -qq -y --no-install-recommends $missing >/dev/null
