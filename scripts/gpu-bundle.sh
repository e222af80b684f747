#!/usr/bin/env bash
# Makes a folder with all that a machine with a GPU needs to check and measure mixce: the CUDA program, PyTorch's twins of its
# benchmarks, and run.sh. That machine needs a driver, the CUDA 13 libraries (of a toolkit or of PyTorch) and python3; this one
# needs no GPU and no driver.
#
# Usage: gpu-bundle.sh [OUT]     default OUT: gpu-bundle in cargo's target folder; replaced if it is an older bundle
#
# Wants what scripts/cuda-toolkit.sh wants, and binutils. MIXCE names a program to pack instead of building one; CUDA_COMPUTE_CAP
# is the oldest GPU to support (default 80, Ampere): kernels travel as PTX, which the driver translates for the GPU it finds.
set -euo pipefail

limit_bytes=60000000
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")"
out="$(realpath -m "${1:-$target/gpu-bundle}")"
if [[ -e "$out" && ! -e "$out/build-info.json" && -n "$(ls -A "$out")" ]]; then
    echo "error: $out exists and is neither empty nor a bundle" >&2
    exit 1
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# link_libraries FOLDER: what the linker asks for. The libraries of PyPI under their unversioned names, and for the driver's, which
# only a driver brings, a stub that defines every function of cuda.h; nothing of it gets into the program but the name libcuda.so.1.
link_libraries() {
    local name libraries
    for name in cublas cublasLt curand nvrtc cudart; do
        libraries=("$CUDA_HOME/lib/lib$name".so.*)
        ln -s "${libraries[0]}" "$1/lib$name.so"
    done
    # The headers' macros map some names to versioned ones, so names are taken from the text: some too many do no harm.
    grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?(_ptsz|_ptds)?\b' "$CUDA_HOME/include/cuda.h" | sort -u |
        sed 's/.*/void &(void) {}/' >"$1/stub.c"
    cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$1/libcuda.so" "$1/stub.c"
}

program="${MIXCE:-}"
if [[ -z "$program" ]]; then
    exports="$("$root/scripts/cuda-toolkit.sh")"
    eval "$exports"
    links="$work/links"
    mkdir "$links"
    link_libraries "$links"
    # Through the environment: compiler flags would make cargo build everything once more.
    (cd "$root" && CARGO_TARGET_DIR="$target" LIBRARY_PATH="$links${LIBRARY_PATH:+:$LIBRARY_PATH}" \
        cargo build --release --features cuda --bin mixce --locked)
    program="$target/release/mixce"
fi

strip --strip-all -o "$work/mixce" "$program"
needed="$(readelf -d "$work/mixce" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')"
if grep -qx 'libcuda.so' <<<"$needed"; then
    echo "error: the program needs libcuda.so, which drivers do not install; expected libcuda.so.1" >&2
    exit 1
fi
if ! grep -qx 'libcuda.so.1' <<<"$needed"; then
    echo "warning: $program has no CUDA support: this bundle runs on the CPU only (DRY=1)" >&2
fi
versions="$(objdump -T "$work/mixce" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)"

rm -rf "$out"
mkdir -p "$out"/{gpu,bench,tokenizer}
NEEDED="$needed" C_LIBRARY="$versions" CAPABILITY="${CUDA_COMPUTE_CAP:-}" \
    python3 - "$root" "$work/mixce" "$out" <<'PYTHON'
import datetime, hashlib, json, lzma, os, subprocess, sys

root, program, out = sys.argv[1:]


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    return done.stdout.strip() if done.returncode == 0 else None


content = open(program, "rb").read()
with open(f"{out}/mixce.xz", "wb") as file:
    file.write(lzma.compress(content, preset=9))
info = {
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "commit": output("git", "rev-parse", "HEAD"),
    "changed": bool(output("git", "status", "--porcelain", "--untracked-files=no")),
    "rustc": output("rustc", "--version"),
    "compute_capability": os.environ["CAPABILITY"] or None,
    "sha256": hashlib.sha256(content).hexdigest(),
    "bytes": len(content),
    "needs": [*os.environ["NEEDED"].split(), os.environ["C_LIBRARY"]],
}
with open(f"{out}/build-info.json", "w") as file:
    file.write(json.dumps(info, indent=1) + "\n")
PYTHON

scripts="$root/scripts"
cp "$scripts"/gpu/{determinism,inputs,kernels,machine,pytorch,rows,run,session}.py "$out/gpu/"
cp "$scripts"/bench/{common.py,pytorch_*.py,smollm2-135m.json} "$out/bench/"
cp "$root"/tests/fixtures/tokenizer/{tokenizer.json,tokenizer_config.json,vocab.json,merges.txt} "$out/tokenizer/"
cp "$scripts/gpu-report.py" "$scripts/gpu/README.md" "$out/"
cp "$scripts/gpu-run.sh" "$out/run.sh"

size="$(du -sb "$out" | cut -f 1)"
if ((size > limit_bytes)); then
    echo "error: the bundle has $size bytes; expected at most $limit_bytes" >&2
    exit 1
fi
cat "$out/build-info.json"
echo "$out: $size bytes"
