#!/usr/bin/env bash
# Tests the emulated driver with each of its checks: that right kernels run, and that every planted fault is caught.
# Usage: run.sh FOLDER     what is built goes there; $CUDA_HOME as for build.sh
set -euo pipefail

folder="$(realpath -m "$1")"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export EMULATED_CUDA_OBJECTS="${EMULATED_CUDA_OBJECTS:-$folder/objects}"
# test CHECK NAME [VARIABLES...]
test_driver() {
    local check="$1" out="$folder/$2" options=()
    shift 2
    [[ $check == none ]] || options+=(--check "$check")
    [[ $(basename "$out") != portable ]] || options+=(--portable)
    "$here/../build.sh" "${options[@]}" "$out" "$here"/*.cu
    # The linker warns of functions in the sanitizer's own library.
    g++ -std=c++17 -O1 -Wall -Wextra -Werror "-I$CUDA_HOME/include" "$here"/*.cpp "-L$out" -lcuda "-Wl,-rpath,$out,-w" -o "$out/selftest"
    printf '%s: ' "$(basename "$out")"
    env "$@" "$out/selftest" "$check"
}

test_driver none none
test_driver access access
test_driver address address "LD_PRELOAD=$(g++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0
# The way to switch stacks that other processors take.
test_driver access portable
