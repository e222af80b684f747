"""Tokenisation of a large file with Python's tokenizers, to compare `mixce` with; and the file itself.

    python scripts/bench/python_tokenizers.py make big.txt --megabytes 250 --words corpus.txt
    python scripts/bench/python_tokenizers.py time big.txt --tokenizer gpt2-folder --threads 2

`make` draws words of a real text independently of each other (seeded), in documents of 40 to 400 words, so that long texts
can be had without a download. `time` reads documents in batches, encodes them by `encode_batch_fast` (`encode_batch` without the
character offsets, and the faster of the two) and adds up their tokens; it keeps none. The other side:

    mixce bench tokenize --data big.txt --tokenizer gpt2-folder --threads 2 --json
"""

import argparse
import json
import os
import pathlib
import random
import resource
import time


def make(arguments):
    """Writes about this many megabytes of documents, one per line."""
    words = pathlib.Path(arguments.words).read_text(encoding="utf-8").split()
    rng = random.Random(1)
    target, written = arguments.megabytes * 10**6, 0
    with open(arguments.path, "w", encoding="utf-8", newline="\n") as file:
        while written < target:
            line = " ".join(rng.choices(words, k=rng.randint(40, 400))) + "\n"
            file.write(line)
            written += len(line.encode())


def measure(arguments):
    """Prints one JSON object."""
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import tokenizers

    folder = pathlib.Path(arguments.tokenizer)
    tokenizer = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))._tokenizer
    begin = time.perf_counter()
    documents, tokens, batch = 0, 0, []

    def flush():
        nonlocal documents, tokens
        documents += len(batch)
        # One more for the end of each text, as mixce counts.
        tokens += sum(len(encoding.ids) + 1 for encoding in tokenizer.encode_batch_fast(batch))
        batch.clear()

    with open(arguments.path, encoding="utf-8", newline="\n") as file:
        for line in file:
            batch.append(line.rstrip("\n"))
            if len(batch) == 1024:
                flush()
    flush()
    seconds = time.perf_counter() - begin
    print(json.dumps({
        "tokenizers": tokenizers.__version__,
        "threads": arguments.threads,
        "documents": documents,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds),
        "megabytes_per_s": round(os.path.getsize(arguments.path) / seconds / 1e6, 2),
        "peak_rss_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }))


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("path")
    making.add_argument("--megabytes", type=int, default=250)
    making.add_argument("--words", required=True)
    making.set_defaults(run=make)
    timing = commands.add_parser("time")
    timing.add_argument("path")
    timing.add_argument("--tokenizer", required=True)
    timing.add_argument("--threads", type=int, default=2)
    timing.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
