"""Checks that mixce computes from a GGUF file what transformers does.

    python scripts/check_gguf.py MODEL.gguf --mixce target/release/mixce

Compared are the token ids of every text, the negative log-likelihood over all tokens, greedy continuations, and three steps of MixCE. The texts
are the plain ones of tests/fixtures/moses (WikiText, WritingPrompts). Exit status: 0 all checks hold, 1 one does not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from tokenizers import pre_tokenizers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TEXTS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "moses" / "lines.jsonl"
NLL_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-3
ETA = 0.1
LR = 1e-4
STEPS = 3
DOCUMENTS = 4
NEW_TOKENS = 16
PROMPTS = 8
# Between the best two logits of a step; below it either token is right, as rounding decides.
TIE = 1e-3


def read_texts():
    """Real texts: the lines of each kind, eight together."""
    kinds = {}
    for line in TEXTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] != "awkward":
            kinds.setdefault(row["kind"], []).append(row["plain"])
    return ["\n".join(lines[at : at + 8]) for lines in kinds.values() for at in range(0, len(lines), 8)]


def run(mixce, *arguments):
    result = subprocess.run([mixce, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"mixce {' '.join(map(str, arguments))}: {result.stderr}")
    return result.stdout


def write_rows(path, key, texts):
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")


def read_rows(text):
    return [json.loads(line) for line in text.splitlines()]


def load(path):
    """transformers' dequantised copy, and its tokenizer with the single digits of SmolLM's published tokenizer.json."""
    options = {"gguf_file": path.name, "dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(path.parent, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return model, tokenizer


@torch.no_grad()
def log_q(model, ids):
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@torch.no_grad()
def greedy(model, ids):
    """The most likely continuation, and the steps at which two tokens are as likely."""
    tokens, ties = list(ids), []
    for step in range(NEW_TOKENS):
        best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
        if (best.values[0] - best.values[1]).item() < TIE:
            ties.append(step)
        tokens.append(best.indices[0].item())
    return tokens[len(ids) :], ties


def check_likelihoods(arguments, model, tokenizer, texts, folder):
    write_rows(folder / "texts.jsonl", "text", texts)
    out = folder / "tokens.jsonl"
    command = ("evaluate", "--model", arguments.gguf, "--data", folder / "texts.jsonl", "--per-token", out)
    report = json.loads(run(arguments.mixce, *command, "--max-length", 512, "--json"))
    total, count, worst = 0.0, 0, 0.0
    for text, row in zip(texts, read_rows(out.read_text(encoding="utf-8")), strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if row["tokens"] != ids[:512]:
            raise SystemExit(f"token ids differ: {text!r}\n  mixce        {row['tokens']}\n  transformers {ids}")
        ours, theirs = torch.tensor(row["log_q"], dtype=torch.float64), log_q(model, row["tokens"])
        worst = max(worst, (ours - theirs).abs().max().item())
        total, count = total - theirs.sum().item(), count + len(theirs)
    nll = total / count
    difference = abs(report["nll"] - nll)
    print(f"token ids: {len(texts)} texts, {count} target tokens, all equal")
    print(f"nll: mixce {report['nll']:.6f}, transformers {nll:.6f}, difference {difference:.1e}; of one token at most {worst:.1e}")
    if report["tokens"] != count or difference > NLL_TOLERANCE:
        raise SystemExit(f"nll differs by more than {NLL_TOLERANCE}, or over {report['tokens']} tokens")


def check_greedy(arguments, model, tokenizer, texts, folder):
    prompts = [" ".join(text.split()[:12]) for text in texts[:: max(1, len(texts) // PROMPTS)][:PROMPTS]]
    write_rows(folder / "prompts.jsonl", "prompt", prompts)
    command = ("generate", "--model", arguments.gguf, "--prompts", folder / "prompts.jsonl", "--greedy")
    rows = read_rows(run(arguments.mixce, *command, "--max-new-tokens", NEW_TOKENS, "--json"))
    for prompt, row in zip(prompts, rows, strict=True):
        expected, ties = greedy(model, tokenizer(prompt, add_special_tokens=False)["input_ids"])
        # Both end at EOS; behind a tie the texts may part.
        sure = min([len(row["tokens"]), *ties])
        if row["tokens"][:sure] != expected[:sure]:
            raise SystemExit(f"{prompt!r}: mixce {row['tokens']}, transformers {expected}")
    print(f"greedy: {len(prompts)} prompts, {NEW_TOKENS} tokens each, all equal")


def mixce_steps(model, documents):
    """Mean losses over the target tokens of three AdamW steps on all documents, each before its update (Zhang et al., ACL 2023)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    count, losses = sum(len(ids) - 1 for ids in documents), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(0.0)
        for ids in documents:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            likelihoods = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            weights = ETA + (1 - ETA) * likelihoods.detach().exp()
            loss = -(weights * likelihoods).sum() / count
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses


def check_training(arguments, model, tokenizer, texts, folder):
    write_rows(folder / "train.jsonl", "text", texts[:DOCUMENTS])
    command = ("train", "--model", arguments.gguf, "--train", folder / "train.jsonl", "--out", folder / "run")
    settings = ("--eta", ETA, "--lr", LR, "--weight-decay", 0, "--scheduler", "constant", "--warmup-steps", 0, "--clip-grad-norm", 1)
    sizes = ("--max-steps", STEPS, "--batch-size", DOCUMENTS, "--grad-accum", 1, "--max-length", 512, "--dropout", 0)
    run(arguments.mixce, *command, *settings, *sizes, "--log-every", 1, "--save-every", "never")
    rows = [row for row in read_rows((folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")) if "loss" in row]
    ends = [tokenizer.eos_token_id]
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] + ends for text in texts[:DOCUMENTS]]
    expected = mixce_steps(model, documents)
    got = [row["loss"] for row in rows]
    worst = max(abs(one - other) for one, other in zip(got, expected, strict=True))
    print(f"mixce, {STEPS} steps: losses {got}, PyTorch {expected}, largest difference {worst:.1e}")
    if worst > LOSS_TOLERANCE:
        raise SystemExit(f"losses differ by more than {LOSS_TOLERANCE}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=lambda text: Path(text).resolve(), help="the model")
    parser.add_argument("--mixce", required=True, help="the program")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.gguf)
    texts = read_texts()
    with tempfile.TemporaryDirectory() as folder:
        check_likelihoods(arguments, model, tokenizer, texts, Path(folder))
        check_greedy(arguments, model, tokenizer, texts, Path(folder))
        check_training(arguments, model, tokenizer, texts, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
