#!/bin/sh
# Makes a real kube-apiserver and its etcd for the tests, of Debian's packages:
# kube-apiserver is built from the source package `kubernetes`, with golang-1.19,
# etcd is the binary of `etcd-server`. Prints the folder, for KUBEBUILDER_ASSETS.
#
# The first time takes some ten minutes of two cores; the result is kept in
# ~/.cache/npc/apiserver, or $NPC_APISERVER. Nothing is installed on the machine
# but the small tools named below, where they are missing. With --cached nothing is
# built.
set -eu

assets=${NPC_APISERVER:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/apiserver}
if [ -x "$assets/kube-apiserver" ] && [ -x "$assets/etcd" ]; then
	echo "$assets"
	exit 0
fi
[ "${1:-}" != --cached ] || exit 1
say() { echo "npc: $*" >&2; }

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need dpkg-source dpkg-dev
need xz xz-utils
need make make
need rsync rsync
if [ -n "$missing" ]; then
	say "installing$missing"
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

# Later Debians have no kubernetes any more; bookworm has.
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
work=$assets/work
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
cat >"$work/sources.list" <<-LIST
	deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main
	deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main
LIST
# Our own lists, so that the machine's stay as they are.
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
		-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
cd "$work"
say "fetching kubernetes (source), golang-1.19 and etcd-server"
apt update
apt download golang-1.19-go golang-1.19-src etcd-server
[ -d kubernetes ] || {
	apt source --download-only kubernetes
	dpkg-source --no-check -x kubernetes_*.dsc kubernetes >/dev/null
}
for package in ./*.deb; do
	dpkg-deb -x "$package" root
done
cp root/usr/bin/etcd "$assets/etcd"

say "building kube-apiserver; this takes a while"
# 1.20.5+really1.20.2-1.1 is 1.20.2.
version=$(sed -n 's/^Version: *//p' kubernetes_*.dsc | sed 's/.*really//; s/-.*//' | head -n 1)
# Its own makefile generates code first and takes the tree for one in a GOPATH.
# Without git it learns its version from a file.
cat >version.sh <<-VERSION
	KUBE_GIT_COMMIT='debian'
	KUBE_GIT_TREE_STATE='archive'
	KUBE_GIT_VERSION='v$version'
	KUBE_GIT_MAJOR='$(echo "$version" | cut -d. -f1)'
	KUBE_GIT_MINOR='$(echo "$version" | cut -d. -f2)'
VERSION
mkdir -p go/src/k8s.io home
ln -sfn "$work/kubernetes" go/src/k8s.io/kubernetes
cd go/src/k8s.io/kubernetes
nice -n 19 env HOME="$work/home" PATH="$work/root/usr/lib/go-1.19/bin:$PATH" GOROOT="$work/root/usr/lib/go-1.19" \
	GOPATH="$work/go" GOPROXY=off CGO_ENABLED=0 KUBE_GIT_VERSION_FILE="$work/version.sh" \
	make WHAT=cmd/kube-apiserver >&2
cp _output/bin/kube-apiserver "$assets/kube-apiserver"
cd "$assets"
rm -rf "$work"
say "kube-apiserver $version and etcd are in $assets"
echo "$assets"
