#!/usr/bin/env bash
# Cargo starts each test program by this (see tests/run.sh).
set -o pipefail
# More of the tests of `lab` run at once, because these mostly wait.
case ${1##*/} in
lab-*) stream=lab threads=${NPC_WAITING_THREADS:-$RUST_TEST_THREADS} ;;
kernel-*) stream=kernel threads=$RUST_TEST_THREADS ;;
*) stream=computing threads=$RUST_TEST_THREADS ;;
esac
[ "${NPC_STREAM:-$stream}" = "$stream" ] || exit 0
export RUST_TEST_THREADS=$threads
[ -n "${NPC_FAILURES-}" ] || exec "$@"
# `make test` prints the failures again at its end, because thousands of lines may follow them.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
"$@" | tee "$output"
status=$?
if [ "$status" != 0 ]; then
  failure="==== ${1##*/} ended with status $status
$(
    # A program that libtest did not end prints no list of failures: then its last lines say most.
    # Without backtraces, because who sees the end of a log only shall see what was not as expected.
    if grep -q '^failures:$' "$output"; then sed -n '/^failures:$/,$p' "$output"; else tail -n 40 "$output"; fi |
      sed '/^stack backtrace:$/,/^note: \|^$/d'
  )"
  printf '%s\n' "$failure" >>"$NPC_FAILURES"
fi
exit "$status"
