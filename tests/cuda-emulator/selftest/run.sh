#!/usr/bin/env bash
# Tests the emulated driver with each of its checks: that right kernels run, and that every planted fault is caught.
# Usage: run.sh FOLDER     what is built goes there; $CUDA_HOME as for build.sh
set -euo pipefail

folder="$(realpath -m "$1")"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for check in none access address; do
    out="$folder/$check"
    option=()
    [[ $check == none ]] || option=(--check "$check")
    "$here/../build.sh" "${option[@]}" "$out" "$here"/*.cu
    g++ -std=c++17 -O1 -Wall -Wextra -Werror "-I$CUDA_HOME/include" "$here"/*.cpp "-L$out" -lcuda "-Wl,-rpath,$out" -o "$out/selftest"
    preload=()
    [[ $check != address ]] || preload=("LD_PRELOAD=$(g++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0)
    env "${preload[@]}" "$out/selftest" "$check"
done
