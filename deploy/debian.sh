#!/bin/sh
# Programs of a Debian package for tests: deploy/debian.sh PACKAGE FOLDER PROGRAM...
# puts them into the folder. The package is fetched and unpacked, not installed, so no
# server starts.
set -eu

package=$1 folder=$2
shift 2
mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "npc: fetching $*, of Debian's package $package" >&2
cd "$work"
# A new machine has no lists of packages yet.
apt-get -qq -o APT::Sandbox::User=root download "$package" >&2 || {
	apt-get -qq update >&2
	apt-get -qq -o APT::Sandbox::User=root download "$package" >&2
}
dpkg-deb -x ./"$package"_*.deb root
# Whole or not at all, if it is killed.
for program; do
	mv "root/usr/bin/$program" "$folder/$program"
done
