#!/usr/bin/env bash
# Gives each fuzz target to libFuzzer for NPC_FUZZ_SECONDS (60), or only those that are named.
# What it finds new stays in target/fuzz/corpus; an input that fails is written to
# target/fuzz/failed and named.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${NPC_FUZZ_SECONDS:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/fuzz
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

if ! command -v c++ >/dev/null; then
  echo "fuzz: a C++ compiler builds libFuzzer, and there is none: apt-get install g++" >&2
  exit 1
fi

# LLVM's coverage counters, as cargo-fuzz has them, without a sanitizer: those need a nightly
# Rust. --target keeps the counters out of build scripts and macros.
flags="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# The libraries are those that we ship.
cp Cargo.lock fuzz/Cargo.lock
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
RUSTFLAGS="$flags" ${CARGO:-cargo} build --release --manifest-path fuzz/Cargo.toml \
  --target "$host" --target-dir "$folder" "${bins[@]}"

mkdir -p "$folder/failed"
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$folder/corpus/$target"
  # A list that takes ten seconds to read is a finding; so is a gigabyte of memory.
  "$folder/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=16384 \
    -print_final_stats=1 -artifact_prefix="$folder/failed/$target-" \
    "$folder/corpus/$target" "fuzz/corpus/$target" 2>"$folder/$target.log" || failed+=("$target")
  sed -n 's/^stat::number_of_executed_units: */'"$target"': inputs tried: /p' "$folder/$target.log"
done
for target in "${failed[@]}"; do
  echo "fuzz: $target failed; the input is named at the end of $folder/$target.log" >&2
  tail -n 25 "$folder/$target.log" >&2
done
[ ${#failed[@]} -eq 0 ]
