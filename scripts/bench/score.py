"""Times of the metrics: MAUVE against mauve-text with faiss, features against transformers, diversity and repetition by themselves.

    python scripts/bench/score.py mauve --mixce target/release/mixce
    python scripts/bench/score.py features --mixce target/release/mixce --tokenizer gpt2-tokenizer
    python scripts/bench/score.py surface --mixce target/release/mixce --tokenizer gpt2-tokenizer

Both sides run alternately in one session. Needs scripts/fixtures/requirements.txt. Data are random and made anew in a
temporary folder; `--rounds` measurements of each are reported as median (smallest, largest).
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def timed(action):
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def mixce(arguments, *words):
    """Runs `mixce score`; wall time of the whole process and its JSON."""
    command = [arguments.mixce, "score", "--json", "--quiet", "--threads", str(arguments.threads), *map(str, words)]
    return timed(lambda: json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def features(rng, rows, columns, shift):
    """Rows with variances that fall as those of GPT-2's hidden states do, some dozens of components to 90 %."""
    scale = 1.0 / (1.0 + np.arange(columns)) ** 0.75
    values = rng.standard_normal((rows, columns)) * scale
    values[:, :8] += shift * scale[:8]
    return values.astype(np.float32)


def bench_mauve(arguments, folder):
    """Time of one score, and the scores over several seeds."""
    import mauve

    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((arguments.columns, arguments.columns)))[0].astype(np.float32)
    p, q = (features(rng, arguments.rows, arguments.columns, shift) @ basis for shift in (0.0, 0.3))
    np.save(folder / "p.npy", p)
    np.save(folder / "q.npy", q)
    files = ["--human-features", folder / "p.npy", "--model-features", folder / "q.npy"]
    seconds = {"mixce": [], "mauve-text": []}
    for seed in range(arguments.rounds):
        seconds["mixce"].append(mixce(arguments, *files, "--mauve-seeds", 1, "--seed", seed)[0])
        run = lambda: mauve.compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False)  # noqa: E731
        seconds["mauve-text"].append(timed(run)[0])
    for name, values in seconds.items():
        print(f"{name}: {spread(values)} s a score")
    report = mixce(arguments, *files, "--mauve-seeds", arguments.seeds)[1]["systems"][0]
    ours = report["mauve"]["values"]
    theirs = [mauve.compute_mauve(p_features=p, q_features=q, seed=s, verbose=False).mauve for s in range(arguments.seeds)]
    print(json.dumps(report["mauve_facts"]))
    for name, values in [("mixce", ours), ("mauve-text", theirs)]:
        quantiles = " ".join(f"{x:.4f}" for x in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
        print(f"{name}: mean {np.mean(values):.4f} sd {np.std(values, ddof=1):.4f} quantiles {quantiles} over {len(values)} seeds")


def random_texts(tokenizer, count, tokens, seed):
    """Texts of about `tokens` tokens each: words of the vocabulary, frequent ones more often."""
    rng = random.Random(seed)
    words = [tokenizer.decode([i]) for i in range(300, 12_000)]
    words = [w for w in words if w.startswith(" ") and w.strip().isalpha()]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    return ["".join(rng.choices(words, weights, k=tokens)).strip() for _ in range(count)]


def bench_features(arguments, folder):
    """Tokens a second of the last hidden state of GPT-2 small with random weights."""
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = transformers.GPT2Model(transformers.GPT2Config()).eval()
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(arguments.tokenizer)
    model.save_pretrained(folder / "model")
    for name in ["vocab.json", "merges.txt", "tokenizer.json"]:
        if (arguments.tokenizer / name).exists():
            shutil.copy(arguments.tokenizer / name, folder / "model" / name)
    texts = random_texts(tokenizer, arguments.texts, 600, 1)
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    ids = [tokenizer(text).input_ids[:512] for text in texts]
    tokens = sum(map(len, ids))

    def theirs():
        with torch.no_grad():
            for start in range(0, len(ids), 8):
                batch = ids[start : start + 8]
                longest = max(map(len, batch))
                rows = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
                mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
                model(rows, attention_mask=mask, use_cache=False)

    # The same texts on both sides: with the cache the second side is read, and without it computed once more.
    words = ["--human", folder / "texts.txt", "--model-text", folder / "texts.txt", "--metrics", "mauve", "--mauve-seeds", 1]
    words += ["--resamples", 0, "--featurizer", folder / "model"]
    rates = {"mixce": [], "transformers": []}
    for turn in range(arguments.rounds):
        once = mixce(arguments, *words, "--cache-dir", folder / f"cache-{turn}")[0]
        again = mixce(arguments, *words, "--cache-dir", folder / f"cache-{turn}")[0]
        rates["mixce"].append(tokens / (once - again))
        rates["transformers"].append(tokens / timed(theirs)[0])
    for name, values in rates.items():
        print(f"{name}: {spread(values, 0)} tokens/s of {len(ids)} texts, {tokens} tokens")


def bench_surface(arguments, folder):
    """The paper's diversity and repetition of 15 000 texts of 512 tokens, a third of each human, two systems."""
    import transformers

    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(arguments.tokenizer)
    for index, name in enumerate(["human.txt", "a.txt", "b.txt"]):
        (folder / name).write_text("\n".join(random_texts(tokenizer, 5000, 512, index)) + "\n")
    words = ["--human", folder / "human.txt", "--model-text", folder / "a.txt", folder / "b.txt"]
    words += ["--metrics", "diversity,repetition,length", "--tokenizer", arguments.tokenizer]
    runs = [mixce(arguments, *words) for _ in range(arguments.rounds)]
    print(f"mixce: {spread([seconds for seconds, _ in runs])} s; tokens of a human text {runs[0][1]['human']['tokens']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mauve", "features", "surface"])
    parser.add_argument("--mixce", type=Path, required=True, help="the program, a release build")
    parser.add_argument("--tokenizer", type=Path, help="folder with GPT-2's tokenizer")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="measurements per side")
    parser.add_argument("--rows", type=int, default=5000, help="feature vectors per side")
    parser.add_argument("--columns", type=int, default=1280, help="dimension of a feature vector")
    parser.add_argument("--seeds", type=int, default=20, help="seeds whose scores are compared")
    parser.add_argument("--texts", type=int, default=32, help="texts whose features are computed")
    arguments = parser.parse_args()
    if arguments.what != "mauve" and arguments.tokenizer is None:
        parser.error(f"{arguments.what} needs --tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        {"mauve": bench_mauve, "features": bench_features, "surface": bench_surface}[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
