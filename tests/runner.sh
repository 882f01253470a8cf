#!/usr/bin/env bash
# Cargo starts each test program by this (see `make test`).
set -o pipefail
# The tests of these programs mostly wait, for an agent or for a packet that does not come, so more
# of them run at once.
case ${1##*/} in
lab-* | kernel-*) RUST_TEST_THREADS=${NPC_WAITING_THREADS:-$RUST_TEST_THREADS} && export RUST_TEST_THREADS ;;
esac
[ -n "${NPC_FAILURES-}" ] || exec "$@"
# `make test` prints the failures again at its end, because thousands of lines may follow them.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
"$@" | tee "$output"
status=$?
if [ "$status" != 0 ]; then
  {
    echo "==== ${1##*/} ended with status $status"
    # A program that libtest did not end prints no list of failures: then its last lines say most.
    if grep -q '^failures:$' "$output"; then sed -n '/^failures:$/,$p' "$output"; else tail -n 40 "$output"; fi
  } >>"$NPC_FAILURES"
fi
exit "$status"
