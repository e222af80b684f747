#!/usr/bin/env bash
# Builds the emulated CUDA driver: build.sh [--check access|address] [--portable] OUT [KERNELS.cu ...]
#
# OUT gets libemulated_cuda.so and the names under which programs built with candle's `cuda` feature look for it
# (libcuda.so and so on). KERNELS are the sources of the kernels that the program will launch; headers are searched in
# their own folders. Wants g++ 12 or later, GNU binutils, python3, and CUDA's headers in $CUDA_HOME/include. Sources
# that did not change are not compiled again; builds that share $EMULATED_CUDA_OBJECTS, a folder, share what they have in common.
#
#     --check access     every access of a kernel is checked: bounds, alignment, races, reads of what was never written
#     --check address    built with the address and undefined-behaviour sanitizers; run with LD_PRELOAD as README says
#     --portable         switches stacks in the way that processors other than x86-64 take
set -euo pipefail

check=none
fiber=()
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --check)
            check="$2"
            shift
            ;;
        --portable) fiber=(-DEMULATED_CUDA_UCONTEXT) ;;
        *)
            echo "unknown option \`$1\`: expected --check or --portable" >&2
            exit 2
            ;;
    esac
    shift
done
out="$(realpath -m "$1")"
shift
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${CUDA_HOME:?CUDA_HOME must name the folder that holds CUDA\'s include folder}"

common=(-std=c++17 -O2 -g1 -fPIC -fno-gnu-unique "-I$CUDA_HOME/include" "-I$CUDA_HOME/include/cccl")
driver=(-Wall -Wextra -Werror)
# CUDA sources are full of pragmas that g++ does not know, and nvcc lets them read a float4 as eight bf16.
kernel=(-w -fno-strict-aliasing)
link=()
case "$check" in
    none) ;;
    access) kernel+=(-fsanitize=thread,alignment -fno-sanitize-recover=alignment) ;;
    address)
        sanitizers=(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=vptr)
        common+=("${sanitizers[@]}")
        link+=("${sanitizers[@]}")
        ;;
    *)
        echo "unknown check \`$check\`: expected access or address" >&2
        exit 2
        ;;
esac
# Matrix products use what this machine has; fused multiply-adds are as good a rounding as a GPU's.
native=(-O3 -march=native)

objects_folder="$(realpath -m "${EMULATED_CUDA_OBJECTS:-$out/objects}")"
mkdir -p "$out" "$objects_folder"
compiler="$(g++ -dumpfullversion)"

# driver_flags SOURCE: the flags of one file of the driver, a line each.
driver_flags() {
    local flags=("${common[@]}" "${driver[@]}")
    case "$(basename "$1")" in
        gemm.cpp | tensor.cpp) flags+=("${native[@]}") ;;
        fiber.cpp) flags+=("${fiber[@]}") ;;
    esac
    printf '%s\n' "${flags[@]}"
}

# object SOURCE FLAGS...: where the object of a source goes that is compiled with these flags.
object() {
    local name digest
    name="$(basename "$1")"
    digest="$(printf '%s\n' "$compiler" "$@" | cksum | cut -d ' ' -f 1)"
    printf '%s/%s-%s.o' "$objects_folder" "${name%.*}" "$digest"
}
driver_object() {
    local flags
    mapfile -t flags < <(driver_flags "$1")
    object "$1" "${flags[@]}"
}
kernels_object() { object "$1" "${common[@]}" "${kernel[@]}"; }

# Whether OBJECT is younger than all other arguments.
is_current() {
    local object="$1" source
    [[ -f "$object" ]] || return 1
    shift
    for source in "$@"; do
        [[ "$object" -nt "$source" ]] || return 1
    done
}

# compile_driver SOURCE: one file of the driver itself.
compile_driver() {
    local object flags
    object="$(driver_object "$1")"
    is_current "$object" "$1" "$here"/src/*.h "$here"/device/runtime.h "$here/build.sh" && return
    mapfile -t flags < <(driver_flags "$1")
    g++ "${flags[@]}" -c "$1" -o "$object"
}

# compile_kernels SOURCE: preprocess, translate, compile, and hide all its names, as another source may have the same.
compile_kernels() {
    local source="$1" folder object
    folder="$(dirname "$source")"
    object="$(kernels_object "$source")"
    is_current "$object" "$folder"/*.cu* "$here"/device/*.h "$here"/{build.sh,translate.py,partial-link.ld} && return
    g++ -E -x c++ "${common[@]}" "${kernel[@]}" "-I$folder" -include "$here/device/device.h" \
        -D__CUDA_ARCH__=800 -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0 -DEMULATED_CUDA "$source" |
        python3 "$here/translate.py" "$(basename "$source")" >"$object.ii"
    g++ -fpreprocessed "${common[@]}" "${kernel[@]}" -c "$object.ii" -o "$object.unlinked"
    ld -r --force-group-allocation -T "$here/partial-link.ld" "$object.unlinked" -o "$object.linked"
    objcopy --keep-global-symbol=none_at_all "$object.linked" "$object"
    rm "$object.ii" "$object.unlinked" "$object.linked"
}

export -f is_current driver_flags object driver_object kernels_object compile_driver compile_kernels
run_all() { # one process a processor; the arrays travel as text
    local definitions
    definitions="$(declare -p common driver kernel native fiber objects_folder compiler here)"
    DEFINITIONS="$definitions" xargs -0 -r -n 2 -P "$(nproc)" bash -euo pipefail -c 'eval "$DEFINITIONS"; "$@"' _
}
{
    for source in "$here"/src/*.cpp; do
        case "$source" in */checks_*.cpp) [[ "$source" == */checks_"$check".cpp ]] || continue ;; esac
        printf 'compile_driver\0%s\0' "$source"
    done
    for source in "$@"; do printf 'compile_kernels\0%s\0' "$(realpath "$source")"; done
} | run_all

# A source that is not named any more leaves its object behind: only those of this call are linked.
objects=()
for source in "$here"/src/*.cpp; do
    case "$source" in */checks_*.cpp) [[ "$source" == */checks_"$check".cpp ]] || continue ;; esac
    objects+=("$(driver_object "$source")")
done
for source in "$@"; do
    objects+=("$(kernels_object "$(realpath "$source")")")
done
g++ "${link[@]}" -shared -Wl,--no-undefined -Wl,-Bsymbolic "${objects[@]}" -o "$out/libemulated_cuda.so"
for name in cuda.so nvrtc.so curand.so cublas.so cublasLt.so cudart.so nccl.so.2; do
    ln -sf libemulated_cuda.so "$out/lib$name"
done
