#!/usr/bin/env bash
# Compiles and lints the whole workspace with `--features cuda`, then with `nccl` as well, on a machine without a GPU;
# warnings are denied.
#
# candle's CUDA kernels are compiled for real, by the compiler that scripts/cuda-toolkit.sh fetches: several minutes on
# two cores the first time, nothing as long as the target folder is kept. Nothing is linked, because that needs the
# driver's libraries.
#
# Usage: check-cuda.sh [OPTIONS OF cargo clippy]     for example: check-cuda.sh --release
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exports="$(scripts/cuda-toolkit.sh)"
eval "$exports"
for features in mixce-tests/cuda mixce-tests/nccl; do
    echo "features: $features"
    cargo clippy --workspace --all-targets --features "$features" --locked "$@" -- -D warnings
done
