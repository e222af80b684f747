#!/usr/bin/env bash
# Compiles our CUDA kernels to machine code, then compiles and lints the whole workspace with the features `cuda` and `nccl`,
# on a machine without a GPU; warnings and spilled registers are denied.
#
# candle's CUDA kernels are compiled by the compiler that scripts/cuda-toolkit.sh fetches, without optimisation: a few minutes
# on two cores the first time, nothing as long as the target folder is kept. Nothing is linked, because that needs the
# driver's libraries.
#
# Usage: check-cuda.sh [OPTIONS OF cargo clippy]     for example: check-cuda.sh --release
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exports="$(scripts/cuda-toolkit.sh)"
eval "$exports"
# What the machine code of a file must have: products on tensor cores, or accesses of 16 bytes.
declare -A wanted=([attention_tensor]='HMMA\.16816\.F32\.BF16')
for name in activation cross_entropy decode dropout norm; do
    wanted[$name]='(LDG|STG)\.E.*\.128'
done
cubins="$(mktemp -d)"
trap 'rm -rf "$cubins"' EXIT

# Machine code for one generation, on which a register that does not fit is an error: it would be slow without a sign.
check_machine_code() { # COMPUTE CAPABILITY
    local capability="$1" cubin="$cubins/$1" source pattern
    for source in mixce-kernels/cuda/*.cu; do
        echo "$source for sm_$capability"
        nvcc -cubin -O3 -std=c++17 "-arch=sm_$capability" -Werror all-warnings -Xptxas -warn-spills,-Werror \
            -o "$cubin" "$source"
        pattern="${wanted[$(basename "$source" .cu)]:-}"
        if [[ -n "$pattern" ]] && ! nvdisasm -c "$cubin" | grep -E "$pattern" >/dev/null; then
            echo "error: $source for sm_$capability: expected instructions $pattern, found none" >&2
            exit 1
        fi
    done
}
check_machine_code 80 &
ampere=$!
check_machine_code 90
wait "$ampere"
# Of the kernels that cargo builds nothing is run here; optimised, each of candle's largest files takes most of a minute.
export NVCC_APPEND_FLAGS="-Ofc max"
cargo clippy --workspace --all-targets --features mixce-tests/nccl --locked "$@" -- -D warnings
