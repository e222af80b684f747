#!/usr/bin/env bash
# Checks training over several processes: 2 to 4 ranks of the program under `mpirun`, on this machine, against one process: the same
# losses and weights with and without shards, a killed and a stopped rank, a full disk, Ctrl-C. `.ci/run` lints the code behind the
# feature `mpi` together with that for CUDA.
#
# Needs Open MPI with its headers and libclang (Debian: libopenmpi-dev openmpi-bin libclang-dev), pgrep (procps) and prlimit (util-linux).
# Dependencies are those of the other builds in the target folder; besides our own crates only those of `mpi` are compiled.
# Arguments go to the test binary, e.g. the name of a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One after another: each test has processes that compete for the cores.
cargo test --workspace --features mixce-tests/mpi --test mpi --locked -- --test-threads=1 "$@"
