#!/usr/bin/env bash
# Runs every test of the workspace (see `make test`), in two streams beside each other. The tests of
# `lab` mostly wait, for an agent or for a packet that does not come, and take longest. Beside them the
# others compute: these take what processors `lab` leaves, and give way to it (nice). Then those of
# `kernel` wait beside the rest of `lab`.
#
# The output of `lab` comes when it ends: lines of two streams would mix.
set -uo pipefail
cargo=${CARGO:-cargo}

"$cargo" test --workspace --no-run || exit

lab=$(mktemp)
# A process group of its own, because a job of a script ignores an interrupt.
set -m
NPC_STREAM=lab "$cargo" test --workspace --no-fail-fast --test lab >"$lab" 2>&1 &
set +m
stream=$!
trap 'kill -- -$stream 2>/dev/null; rm -f "$lab"' EXIT
trap 'exit 130' INT TERM

NPC_STREAM=computing nice -n 19 "$cargo" test --workspace --no-fail-fast
computed=$?
NPC_STREAM=kernel "$cargo" test --workspace --no-fail-fast --test kernel
acted=$?
wait "$stream"
waited=$?
cat "$lab"
[ "$computed" = 0 ] && [ "$acted" = 0 ] && [ "$waited" = 0 ]
