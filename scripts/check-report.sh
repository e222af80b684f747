#!/usr/bin/env bash
# Looks at the pages of `mixce report`, `judge serve` and `watch --serve` in a headless Chromium: no message on the console, no violation found by
# axe-core, no horizontal scrolling on a narrow screen, light and dark, with and without scripts, search, keyboard, mouse; two judges at once,
# pages loaded again, hostile texts, a server killed between two answers.
#
# scripts/check-report.sh [PAGE...]: checks these pages of reports; without any, those that the end-to-end tests write, and the servers. Screenshots
# go to target/report-check. Skipped, with a message, where there is no Chromium (Debian: apt install chromium).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
work="$target/report-check"
chromium=""
for name in chromium chromium-browser google-chrome; do
    if chromium="$(command -v "$name")"; then break; fi
done
if [[ -z "$chromium" ]]; then
    echo "skipped: no Chromium on PATH (Debian: apt install chromium)"
    exit 0
fi

mkdir -p "$work"
pages=("$@")
servers=()
if ((${#pages[@]} == 0)); then
    rm -rf "$work/pages"
    MIXCE_KEEP_REPORT="$work/pages" cargo test --workspace --test e2e -- report:: judge::
    pages=("$work"/pages/*/index.html)
    servers=("$target/debug/mixce-e2e")
fi
if [[ ! -x "$work/venv/bin/python" ]]; then
    python3 -m venv "$work/venv"
fi
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/report-requirements.txt
"$work/venv/bin/python" scripts/check_report.py --chromium "$chromium" --out "$work" "${pages[@]}"
for program in "${servers[@]}"; do
    "$work/venv/bin/python" scripts/check_servers.py --chromium "$chromium" --out "$work" "$program"
done
