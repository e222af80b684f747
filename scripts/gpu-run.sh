#!/usr/bin/env bash
# Runs mixce on the GPU of this machine and says what works and how fast: README.md in the bundle, scripts/gpu/README.md in the repository.
#
#     OUT=results run.sh [GROUP...]                                              default: all, within 9 minutes
#     DRY=1 MIXCE=target/release/mixce OUT=target/gpu-dry scripts/gpu-run.sh     everything in small, on the CPU
#
# Needs python3 (PYTHON names another), with PyTorch and transformers for the rows beside them.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/gpu/run.py" "$@"
