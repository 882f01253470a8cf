#!/bin/sh
# Makes the root file system of the image, without npc itself: both iptables
# backends with their extensions, and the libraries that these and npc need.
# Nothing else: no shell, no package manager, no ipset (sets go over netlink).
#
#   rootfs.sh ARCHITECTURE FOLDER        architecture as Debian names it: amd64, arm64
#
# Packages are fetched and unpacked, never run, so any architecture is made on
# any other. Needs Debian's apt-get, dpkg-deb and tar, and no root.
set -eu

architecture=$1
root=$2
# The iptables of this release (1.8.9) is what our tests run against.
release=${NPC_DEBIAN_RELEASE:-bookworm}
packages="iptables libxtables12 libip4tc2 libip6tc2 libmnl0 libnftnl11 libnetfilter-conntrack3 libnfnetlink0 libc6 libgcc-s1 gcc-12-base"

case $architecture in
amd64) triplet=x86_64-linux-gnu loader=lib64/ld-linux-x86-64.so.2 ;;
arm64) triplet=aarch64-linux-gnu loader=lib/ld-linux-aarch64.so.1 ;;
*)
	echo "rootfs.sh: no image for the architecture $architecture: amd64 or arm64" >&2
	exit 2
	;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An apt of our own, that knows the other architecture and leaves the machine's alone.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/all"
: >"$work/status"
apt() {
	apt-get -qq \
		-o Dir::State="$work" -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
		-o Dir::Cache="$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User= \
		-o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
		-o Acquire::Languages=none -o APT::Default-Release="${release}" "$@"
}
apt update
# shellcheck disable=SC2086 # a list of packages
(cd "$work/packages" && apt download $packages)

# /lib is /usr/lib, as in Debian itself; some packages still name the former.
mkdir -p "$work/all/usr/lib" "$work/all/usr/lib64" "$work/all/usr/sbin" "$work/all/usr/bin"
for folder in lib lib64 sbin bin; do ln -s "usr/$folder" "$work/all/$folder"; done
for package in "$work"/packages/*.deb; do
	dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$work/all"
done

libraries="libc.so.6 libm.so.6 libgcc_s.so.1 libxtables.so.12 libip4tc.so.2 libip6tc.so.2 libmnl.so.0 libnftnl.so.11 libnetfilter_conntrack.so.3 libnfnetlink.so.0"

mkdir -p "$root/usr/lib/$triplet" "$root/usr/lib64" "$root/usr/sbin" "$root/usr/bin"
for folder in lib lib64 sbin bin; do [ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"; done
# Where the container runtime mounts things over a read-only root.
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/etc/npc" "$root/usr/lib/modules"

for library in $libraries; do
	cp -L "$work/all/usr/lib/$triplet/$library" "$root/usr/lib/$triplet/$library"
done
cp -L "$work/all/$loader" "$root/$loader"
cp -R "$work/all/usr/lib/$triplet/xtables" "$root/usr/lib/$triplet/"
for backend in nft legacy; do
	cp "$work/all/usr/sbin/xtables-$backend-multi" "$root/usr/sbin/"
	for family in iptables ip6tables; do
		for suffix in '' -restore -save; do
			ln -sf "xtables-$backend-multi" "$root/usr/sbin/$family-$backend$suffix"
		done
	done
done
# Their licences.
for package in $packages; do
	mkdir -p "$root/usr/share/doc/$package"
	cp -L "$work/all/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
done
# What is in the image; sbom.sh reads it.
for package in "$work"/packages/*.deb; do
	dpkg-deb -W --showformat '${Package} ${Version} ${Architecture}\n' "$package"
done >"$root/usr/share/doc/packages"
