#!/usr/bin/env bash
# Fetches the CUDA compiler and headers from PyPI and prints the variables that a build with `--features cuda` needs.
#
#     exports="$(scripts/cuda-toolkit.sh)" && eval "$exports"
#     cargo check --features cuda
#
# Wants Linux on x86-64 or arm64, python3 with its `venv` module, a C++ compiler for nvcc to call, and 1.2 GB of disk.
# Neither a GPU nor a driver is needed, and nothing outside the folder is touched: a virtual environment with the
# versions of scripts/cuda-requirements.txt, used again by later calls for as long as that file stays the same.
#
# Usage: cuda-toolkit.sh [FOLDER]     default FOLDER: cuda-toolkit in cargo's target folder
#
# CUDA_COMPUTE_CAP, where set, is kept; otherwise it is 80 (Ampere), which newer GPUs run too.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/scripts/cuda-requirements.txt"
folder="$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/cuda-toolkit}")"
complete="$folder/installed-requirements.txt"

# The copy of the requirements is written last, so an interrupted or outdated installation is made anew.
if ! cmp -s "$requirements" "$complete"; then
    echo "installing the CUDA compiler into $folder" >&2
    rm -f "$complete"
    python3 -m venv --clear "$folder" >&2
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --requirement "$requirements" >&2
    cp "$requirements" "$complete"
fi

cuda_home="$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)"
"$cuda_home/bin/nvcc" --version | grep 'release' >&2

printf 'export CUDA_HOME=%q\n' "$cuda_home"
printf 'export CUDA_COMPUTE_CAP=%q\n' "${CUDA_COMPUTE_CAP:-80}"
# cudarc takes the version from nvcc where it knows it; naming it keeps the build independent of that.
printf 'export CUDARC_CUDA_VERSION=13000\n'
# candle's kernels are compiled on half of the cores otherwise, while everything waits for them.
printf 'export CUDAFORGE_THREADS=%q\n' "${CUDAFORGE_THREADS:-$(nproc)}"
# shellcheck disable=SC2016 # the caller's PATH is meant
printf 'export PATH=%q:"$PATH"\n' "$cuda_home/bin"
