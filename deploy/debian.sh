#!/bin/sh
# Programs of a Debian package for tests: deploy/debian.sh PACKAGE FOLDER PROGRAM...
# puts them into the folder. The package is fetched and unpacked, not installed, so no
# server starts. A program is named by its path in the package, or by its name alone if it
# is in /usr/bin.
#
# NPC_DEBIAN_RELEASE names another release than the machine's.
set -eu

package=$1 folder=$2
shift 2
mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "npc: fetching $*, of Debian's package $package" >&2
cd "$work"
apt() { apt-get -qq -o APT::Sandbox::User=root "$@" >&2; }
if [ -n "${NPC_DEBIAN_RELEASE:-}" ]; then
	# With lists of its own, so that the machine's stay as they are.
	mkdir -p lists/partial cache/archives/partial
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
		"${DEBIAN_MIRROR:-http://deb.debian.org/debian} $NPC_DEBIAN_RELEASE main" >sources.list
	apt() {
		apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
			-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >&2
	}
	apt update
	apt download "$package"
else
	# A new machine has no lists of packages yet.
	apt download "$package" || {
		apt update
		apt download "$package"
	}
fi
dpkg-deb -x ./"$package"_*.deb root
# Whole or not at all, if it is killed.
for program; do
	case $program in
	*/*) mv "root/$program" "$folder/${program##*/}" ;;
	*) mv "root/usr/bin/$program" "$folder/$program" ;;
	esac
done
