#!/usr/bin/env bash
# Counts what a build of the program compiles, and checks the lists of crates in the profiles of Cargo.toml.
#
# Counted are the packages of `cargo tree`: ours, those of others, build scripts' dependencies and procedural macros, each
# version once, for this machine's target and the default features. Whoever needs one more raises the limit and says why.
# 25 of them are the HTTP server and SQLite of `mixce judge`, 25 ratatui and crossterm of `mixce watch`, half of them macros and what these
# need to be built. Cargo.lock holds instability 0.3.9 and derive_more 2.0.1, which ratatui and crossterm need: later ones bring a second darling and
# a reader of compiler versions, five packages (`cargo update -p instability --precise 0.3.9`, `-p derive_more --precise 2.0.1`).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=330

packages="$(cargo tree --locked -p mixce-cli -e normal,build --prefix none -f '{p}' | sed 's/ (\*)$//' | sort -u)"
count="$(wc -l <<<"$packages")"
echo "$count packages make the program, of $limit at most"
if ((count > limit)); then
    echo "too many: \`cargo tree -p mixce-cli -i NAME\` says who wants one" >&2
    exit 1
fi

# The crates of others that a profile optimises: in tests at a level that is quick to compile, fully in releases.
optimised() {
    sed -n "/^\[profile\.$1\.package\]/,/^\[profile\.[^.]*\(\.build-override\)\?\]/s/^\([a-z0-9_-]*\)\.opt-level = [123]$/\1/p" Cargo.toml | grep -v '^mixce-' | sort
}
if ! diff <(optimised dev) <(optimised release); then
    echo "the profiles \`dev\` (<) and \`release\` (>) in Cargo.toml optimise different crates" >&2
    exit 1
fi
absent="$(comm -23 <(sed -n 's/^\([a-z0-9_-]*\)\.opt-level = .*/\1/p' Cargo.toml | sort -u) <(cut -d' ' -f1 <<<"$packages" | sort -u))"
if [[ -n "$absent" ]]; then
    echo "profiles in Cargo.toml name crates that are not in the tree: ${absent//$'\n'/, }" >&2
    exit 1
fi
