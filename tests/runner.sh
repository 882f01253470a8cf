#!/bin/sh
# Cargo starts each test program by this (see `make test`). The tests of these programs mostly wait, for
# an agent or for a packet that does not come, so more of them run at once.
case ${1##*/} in
lab-* | kernel-*) RUST_TEST_THREADS=${NPC_WAITING_THREADS:-$RUST_TEST_THREADS} && export RUST_TEST_THREADS ;;
esac
exec "$@"
