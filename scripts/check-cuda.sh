#!/usr/bin/env bash
# Compiles our CUDA kernels to machine code, compares their occupancy with the table in docs/src/cuda.md, then compiles and lints the
# workspace with the features `cuda` and `nccl`, on a machine without a GPU; warnings and spilled registers are denied.
#
# candle's CUDA kernels are compiled by the compiler that scripts/cuda-toolkit.sh fetches, without optimisation: a few minutes
# on two cores the first time, nothing as long as the target folder is kept. Nothing is linked, because that needs the
# driver's libraries.
#
# Usage: check-cuda.sh [OPTIONS OF cargo clippy]     for example: check-cuda.sh --release
#        MIXCE_BLESS=1 check-cuda.sh                 writes the table of occupancy
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

# Machine code for one generation. A register that does not fit is an error: the kernel would be slow without a sign. What the assembler says
# of registers and shared memory goes to a log beside the code.
check_machine_code() { # COMPUTE CAPABILITY
    local capability="$1" source pattern name cubin
    mkdir "$cubins/$capability"
    for source in mixce-kernels/cuda/*.cu; do
        echo "$source for sm_$capability"
        name="$(basename "$source" .cu)"
        cubin="$cubins/$capability/$name.cubin"
        if ! nvcc -cubin -O3 -std=c++17 "-arch=sm_$capability" -Werror all-warnings -Xptxas -v,-warn-spills,-Werror \
            -o "$cubin" "$source" 2>"${cubin%.cubin}.log"; then
            cat "${cubin%.cubin}.log" >&2
            exit 1
        fi
        pattern="${wanted[$name]:-}"
        if [[ -n "$pattern" ]] && ! nvdisasm -c "$cubin" | grep -E "$pattern" >/dev/null; then
            echo "error: $source for sm_$capability: expected instructions $pattern, found none" >&2
            exit 1
        fi
    done
}
check_machine_code 80 &
ampere=$!
check_machine_code 90 &
hopper=$!
check_machine_code 120
wait "$ampere"
wait "$hopper"
python3 -m doctest scripts/occupancy.py
python3 scripts/occupancy.py "$cubins" docs/src/cuda.md
# Of the kernels that cargo builds nothing is run here; optimised, each of candle's largest files takes most of a minute.
export NVCC_APPEND_FLAGS="-Ofc max"
# Other targets are the same without these features.
cargo clippy --workspace --lib --bins --test cuda --test e2e --test training --features mixce-tests/nccl --locked "$@" -- -D warnings
