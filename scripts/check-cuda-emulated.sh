#!/usr/bin/env bash
# Runs the CUDA tests of the workspace on a machine without a GPU: every test target called `cuda`, linked with the
# emulated driver of tests/cuda-emulator, once with every access of a kernel checked and once with the address and
# undefined-behaviour sanitizers. Before that, the driver's own tests show that its checks catch planted faults.
#
# Without `--full` a fixed sample runs, in which every kernel is checked both ways: with `access` all tests but those of whole
# programs whose steps another test takes too, with `address` the tests of single operations and of sampling.
#
# Wants what scripts/cuda-toolkit.sh wants, and g++ 12 or later.
#
# Usage: check-cuda-emulated.sh [--full] [ARGUMENTS OF THE TESTS]     for example: check-cuda-emulated.sh --full sampling
set -euo pipefail

# Tests of whole programs, or of whole training runs, that repeat on a larger scale what others run.
repeats=(
    a_run_goes_from_
    bf16_trains_as_f32_does
    llama::ten_steps_give_
    llama_with_biases
    the_quickstarts_training_gives_
    training_scoring_and_sampling_are_measured
)
# Training and programs: of the kernels, operations and sublayers run all. Time limits of processes are not for a sanitizer's speed.
runs=(program:: ranks:: counts:: bf16:: ten_steps_ pytorch_steps:: a_loss_that_ a_run_ a_token_launches_)

export EMULATED_CUDA_SAMPLE=1 # some tests take smaller inputs
skip_in_access=("${repeats[@]}")
skip_in_address=("${repeats[@]}" "${runs[@]}")
if [[ "${1:-}" == --full ]]; then
    shift
    unset EMULATED_CUDA_SAMPLE
    skip_in_access=()
    # What is counted is the same with other checks, and a long run touches no more memory than a short one.
    skip_in_address=(counts:: a_token_launches_ ranks:: bf16_trains_as_f32_does)
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exports="$(scripts/cuda-toolkit.sh)"
eval "$exports"
# The emulated driver runs other builds of the kernels than cargo's, which need not be fast.
export NVCC_APPEND_FLAGS="-Ofc max"
emulator="$(realpath -m "${CARGO_TARGET_DIR:-target}/cuda-emulator")"
export EMULATED_CUDA_OBJECTS="$emulator/objects"

tests/cuda-emulator/selftest/run.sh "$emulator/selftest"

candle_kernels="$(cargo metadata --format-version 1 --locked --features mixce-tests/nccl | python3 -c '
import json, os, sys
manifests = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"]
print(os.path.join(os.path.dirname(manifests[0]), "src"))')"
# candle has more, for convolutions and quantised models, which nothing here launches.
kernels=("$candle_kernels"/{affine,binary,cast,fill,indexing,reduce,sort,ternary,unary}.cu)
while IFS= read -r source; do
    kernels+=("$source")
done < <(find mixce-* -name '*.cu' -not -path '*/target/*' | sort)

for check in access address; do
    tests/cuda-emulator/build.sh --check "$check" "$emulator/$check" "${kernels[@]}"
done

# Linking finds the driver through LIBRARY_PATH: compiler flags would make cargo build everything once more.
programs="$(LIBRARY_PATH="$emulator/access" cargo test --workspace --features mixce-tests/nccl --test cuda --locked --no-run \
    --message-format json-render-diagnostics | python3 -c '
import json, os, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["target"]["kind"] == ["test"]:
        print(os.path.dirname(message["manifest_path"]), message["executable"])')"

run_test() { # CHECK FOLDER PROGRAM ARGUMENTS...
    local check="$1" program="$3" variables=()
    cd "$2"
    shift 3
    if [[ "$check" == address ]]; then
        # What programs leave allocated at their end is no leak to the sanitizer's taste.
        variables=("LD_PRELOAD=$(g++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0)
        set -- "$@" "${skip_in_address[@]/#/--skip=}"
    else
        set -- "$@" "${skip_in_access[@]/#/--skip=}"
    fi
    env "CARGO_MANIFEST_DIR=$PWD" "LD_LIBRARY_PATH=$emulator/$check" "${variables[@]}" "$program" "$@"
}
# What it has printed appears at its end.
run_and_print() {
    local log status=0
    log="$(mktemp)"
    run_test "$@" >"$log" 2>&1 || status=$?
    printf '\nCUDA tests of %s on the emulated driver, checks `%s`\n' "$(basename "$2")" "$1"
    cat "$log"
    rm "$log"
    return "$status"
}

# The driver runs one call at a time, so that a test program keeps one core busy: there is one for each core.
status=0
running=0
wait_for_one() {
    wait -n || status=1
    running=$((running - 1))
}
set -m # process groups of their own, which end with this script
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done' EXIT
for check in access address; do
    while read -r folder program; do
        ((running < $(nproc))) || wait_for_one
        run_and_print "$check" "$folder" "$program" "$@" &
        running=$((running + 1))
    done <<<"$programs"
done
while ((running)); do wait_for_one; done
exit "$status"
