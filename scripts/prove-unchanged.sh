#!/usr/bin/env bash
# Shows that a change of structure changed no number: the programs of two commits do the same work, and every weight, loss,
# log-likelihood, sample, score and bigram cell is compared byte for byte.
#
#   scripts/prove-unchanged.sh OLD_COMMIT [NEW_COMMIT]          builds both (dev profile) in worktrees of their own
#   OLD=path NEW=path scripts/prove-unchanged.sh                compares two programs that are built already
#
# Prints one line a comparison and ends with status 1 if any differs. Times and paths are left out of what is compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
work="$(mktemp -d)"
trap 'status=$?; ((status < 2)) || tail -n 3 "$work"/*/log; rm -rf "$work"; git -C "$root" worktree prune; exit $status' EXIT

build() { # COMMIT NAME
    git worktree add --quiet --detach "$work/$2-tree" "$1"
    (cd "$work/$2-tree" && cargo build --quiet --locked -p mixce-cli --target-dir "$work/$2-target")
    echo "$work/$2-target/debug/mixce"
}
OLD="${OLD:-$(build "${1:?an older commit}" old)}"
NEW="${NEW:-$(build "${2:-HEAD}" new)}"

# Inputs: the same for both.
mkdir "$work/in"
awk 'BEGIN { srand(7); split("the a cat dog bird sat ran flew on over under mat log tree and then it was not", w, " ");
    for (i = 0; i < 400; i++) { n = 4 + int(rand() * 40); s = ""; for (j = 0; j < n; j++) s = s (j ? " " : "") w[1 + int(rand() * 20)]; print s } }' \
    >"$work/in/all.txt"
head -320 "$work/in/all.txt" >"$work/in/train.txt"
tail -80 "$work/in/all.txt" >"$work/in/valid.txt"
head -12 "$work/in/valid.txt" | cut -d' ' -f1-3 >"$work/in/prompts.txt"
cat >"$work/in/config.json" <<'J'
{"model_type":"gpt2","vocab_size":377,"n_positions":128,"n_embd":64,"n_layer":3,"n_head":4,
 "resid_pdrop":0.1,"embd_pdrop":0.1,"attn_pdrop":0.1,"bos_token_id":376,"eos_token_id":376}
J
cp -r "$root/tests/fixtures/tokenizer" "$work/in/tokenizer"

objectives=("mle" "mixce --eta 0.3" "tailr --gamma 0.2" "dft" "alpha --alpha 0.5" "trsft" "tvd")
common=(--from-config config.json --tokenizer tokenizer --train train.txt --valid valid.txt --batch-size 4 --grad-accum 2
    --max-length 64 --max-steps 20 --lr 1e-3 --log-every 1 --save-every 10 --eval-every 10 --keep-last 9 --seed 3 --threads 2)

run() { # PROGRAM FOLDER
    local mixce="$1" out="$2"
    cp -r "$work/in" "$out"
    cd "$out"
    local objective name
    for objective in "${objectives[@]}"; do
        name="${objective%% *}"
        # shellcheck disable=SC2086 # the words are separate arguments
        "$mixce" train "${common[@]}" --objective $objective --out "run-$name" -q >/dev/null 2>>"$out/log"
    done
    "$mixce" train "${common[@]}" --objective mixce --eta 0.3 --activation-checkpointing --out run-recomputed -q >/dev/null 2>>"$out/log"
    # Stops in the middle, as after an interruption, and goes on.
    cp -r run-mixce run-resumed
    rm -r run-resumed/checkpoints/step-00000020 run-resumed/final run-resumed/best
    "$mixce" train "${common[@]}" --objective mixce --eta 0.3 --resume auto --out run-resumed -q >/dev/null 2>>"$out/log"
    "$mixce" evaluate --model run-mixce/final --data valid.txt --max-length 64 --threads 2 --per-token tokens.jsonl --json 2>>"$out/log" |
        sed -E 's/.*"nll":([^,]*),"perplexity":([^,}]*).*/\1 \2/' >evaluate.txt
    local way
    for way in "--temperature 1" "--top-k 5" "--top-p 0.8" "--greedy"; do
        # shellcheck disable=SC2086
        "$mixce" generate --model run-mixce/final --prompts prompts.txt --max-new-tokens 40 $way --seed 5 --threads 2 --json 2>>"$out/log"
    done >samples.jsonl
    head -12 samples.jsonl >generated.jsonl
    "$mixce" score --human valid.txt --model-text generated.jsonl --featurizer run-mle/final --metrics diversity,repetition,mauve,length,zipf,self-bleu \
        --mauve-seeds 2 --seed 1 --threads 2 --max-length 64 --json 2>>"$out/log" | sed -E 's/"settings":.*//' >score.json
    "$mixce" synthetic --vocab 20 --zeros 0.5 --objectives mixce,mle --etas 0.5 --seeds 7 --epochs 2 --threads 2 --json --out synthetic 2>>"$out/log" |
        sed -E "s/\"seconds\":[0-9.e-]+//" | sort >synthetic.json
    cd "$root"
}
run "$OLD" "$work/a"
run "$NEW" "$work/b"

status=0
compare() { # NAME FILE
    if [[ ! -s "$work/a/$2" || ! -s "$work/b/$2" ]]; then
        printf 'MISSING    %s\n' "$1"; status=1
    elif cmp -s "$work/a/$2" "$work/b/$2"; then
        printf 'the same   %s (%s bytes)\n' "$1" "$(stat -c %s "$work/b/$2")"
    else
        printf 'DIFFERENT  %s\n' "$1"; status=1
    fi
}
for name in mle mixce tailr dft alpha trsft tvd recomputed resumed; do
    for side in a b; do
        sed -E 's/"tokens_per_s":[0-9.e-]+//' "$work/$side/run-$name/metrics.jsonl" >"$work/$side/run-$name/losses.jsonl" || true
    done
    compare "losses of 20 steps, $name" "run-$name/losses.jsonl"
    compare "weights after 20 steps, $name" "run-$name/final/model.safetensors"
    compare "best weights, $name" "run-$name/best/model.safetensors"
    compare "moments of AdamW, $name" "run-$name/checkpoints/step-00000020/optimizer.safetensors"
done
compare "NLL and perplexity" evaluate.txt
compare "log q of every token" tokens.jsonl
compare "48 samples in four ways" samples.jsonl
compare "scores" score.json
compare "bigram cells" synthetic.json
exit "$status"
