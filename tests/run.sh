#!/usr/bin/env bash
# Runs every test of the workspace (see `make test`), in two streams beside each other. The tests of
# `lab` and `kernel` mostly wait, for an agent or for a packet that does not come; the others
# compute. So the others take what processors these leave, and give way to them (nice).
#
# The output of the tests that wait comes when they end: lines of two streams would mix.
set -uo pipefail
cargo=${CARGO:-cargo}

"$cargo" test --workspace --no-run || exit

waiting=$(mktemp)
# A process group of its own, because a job of a script ignores an interrupt.
set -m
NPC_STREAM=waiting "$cargo" test --workspace --no-fail-fast --test '*' >"$waiting" 2>&1 &
set +m
stream=$!
trap 'kill -- -$stream 2>/dev/null; rm -f "$waiting"' EXIT
trap 'exit 130' INT TERM

NPC_STREAM=computing nice -n 19 "$cargo" test --workspace --no-fail-fast
computed=$?
wait "$stream"
waited=$?
cat "$waiting"
[ "$computed" = 0 ] && [ "$waited" = 0 ]
