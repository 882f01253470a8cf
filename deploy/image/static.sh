#!/bin/sh
# Fails unless this is the CNI plugin as it is shipped: static, because it runs on a node with
# any libraries or none, and below 2 MB.
#
#   static.sh BINARY
set -eu

binary=$1 most=2000000
# A program that is loaded by another has the header INTERP.
headers=$(LC_ALL=C readelf -lW "$binary" 2>/dev/null) || headers="INTERP, or no program at all"
case $headers in
*INTERP*)
	echo "$binary is not static, and a node may lack the libraries that it needs; build it with" \
		"RUSTFLAGS='-C target-feature=+crt-static' and --target" >&2
	exit 1
	;;
esac
# As `make dist` has it, without what only a debugger reads.
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$binary"
size=$(wc -c <"$stripped")
if [ "$size" -ge "$most" ]; then
	echo "$binary has $size bytes, and the CNI plugin is to have fewer than $most" >&2
	exit 1
fi
