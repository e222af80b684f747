"""Compares training with the best f32 matrix products that this machine's libraries reach on the same shapes, in the same run.

    cargo build --release && cargo build --release -p mixce-kernels --example products
    python scripts/bench/training_share.py --batch-size 8 --seq-len 512 --threads 2

A round times the products of a training step (every map of a block and the LM head: forward, for the gradient of the input, for that of the weight) through
`gemm`, NumPy (OpenBLAS) and our own kernel in turn, then `mixce bench train`, then the products again: the clock of a shared machine changes within seconds. The
time of the products of a step is the sum over shapes of the fastest turn of the faster library. Prints a row of a Markdown table: tokens a second,
and the rate of training as a share of the rate of the libraries' products (with our kernel's in the last column), medians of the rounds and their range.
Operations are those of `mixce bench`, which counts attention, too. Needs NumPy.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

PLAIN, TRANSPOSED = "plain", "transposed"
HEAD_TOKENS = 1024
"""The LM head takes tokens in slices, here and in mixce: all at once have too many logits."""
LLAMA_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


def model(name):
    """Inputs and outputs of the maps of a block, the layout of their weights, layers, and the shape of the LM head."""
    if name == "gpt2":
        return [(768, 2304), (768, 768), (768, 3072), (3072, 768)], False, 12, (768, 50257)
    with open(name, encoding="utf-8") as file:
        config = json.load(file)
    c, inner, layers, heads, kv, vocabulary = (config[key] for key in LLAMA_KEYS)
    head = c // heads
    maps = [(c, c), (c, kv * head), (c, kv * head), (c, c), (c, inner), (c, inner), (inner, c)]
    return maps, True, layers, (c, vocabulary)


def products(name, tokens):
    """`(M, K, N, left layout, right layout)` of a step's products and how often each occurs."""
    maps, rows_are_outputs, layers, (c, vocabulary) = model(name)
    counts = {}
    cases = [(tokens, inputs, outputs, rows_are_outputs, layers) for inputs, outputs in maps]
    slices = -(-tokens // HEAD_TOKENS)
    cases.append((tokens // slices, c, vocabulary, True, slices))
    for tokens, inputs, outputs, transposed, times in cases:
        forward, backward = (TRANSPOSED, PLAIN) if transposed else (PLAIN, TRANSPOSED)
        weight = (outputs, tokens, inputs) if transposed else (inputs, tokens, outputs)
        for product in (
            (tokens, inputs, outputs, PLAIN, forward),
            (tokens, outputs, inputs, PLAIN, backward),
            (*weight, TRANSPOSED, PLAIN),
        ):
            counts[product] = counts.get(product, 0) + times
    return counts


class Libraries:
    """The products' program and NumPy."""

    def __init__(self, program, threads):
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
        import numpy  # reads the number of threads when it is loaded

        self.numpy = numpy
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        self.child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def seconds(self, kind, product):
        """Of one product."""
        if kind == "openblas":
            return self.in_numpy(product)
        print(kind, *product, file=self.child.stdin, flush=True)
        return float(self.child.stdout.readline())

    def in_numpy(self, product):
        m, k, n, left, right = product
        a, b, c = self.matrix(m, k, left), self.matrix(k, n, right), self.matrix(m, n, PLAIN)
        began = time.perf_counter()
        self.numpy.matmul(a, b, out=c)
        return time.perf_counter() - began

    def matrix(self, rows, columns, layout):
        shape = (columns, rows) if layout == TRANSPOSED else (rows, columns)
        values = self.numpy.full(shape, 0.5, self.numpy.float32)
        return values.T if layout == TRANSPOSED else values


def rates(libraries, counts, turns):
    """GFLOP/s over all products of a step: of the faster library for each shape, and with ours among them."""
    operations, of_libraries, of_all = 0, 0, 0
    for product, times in counts.items():
        best = {}
        for _ in range(turns):
            for kind in ("gemm", "openblas", "ours"):
                best[kind] = min(libraries.seconds(kind, product), best.get(kind, float("inf")))
        m, k, n, *_ = product
        operations += 2 * m * k * n * times
        of_libraries += min(best["gemm"], best["openblas"]) * times
        of_all += min(best.values()) * times
    return operations / of_libraries / 1e9, operations / of_all / 1e9


def train(arguments):
    line = f"--threads {arguments.threads} --json bench train --model-config {arguments.model_config} --batch-size {arguments.batch_size}"
    line += f" --seq-len {arguments.seq_len} --steps {arguments.steps} --warmup 1 --dropout 0 --gflops 1"
    return json.loads(subprocess.run([arguments.mixce, *line.split()], check=True, capture_output=True, text=True).stdout)


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))} - {form(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixce", default="target/release/mixce", help="the program, a release build")
    parser.add_argument("--products", default="target/release/examples/products", help="the example, a release build")
    parser.add_argument("--model-config", default="gpt2", help="gpt2 or the config.json of a Llama")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="threads of each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--turns", type=int, default=3, help="products of each kind and shape, before and after the steps")
    arguments = parser.parse_args()
    counts = products(arguments.model_config, arguments.batch_size * arguments.seq_len)
    libraries = Libraries(arguments.products, arguments.threads)
    speeds, shares, shares_of_all, best = [], [], [], []
    for _ in range(arguments.rounds):
        before = rates(libraries, counts, arguments.turns)
        row = train(arguments)
        after = rates(libraries, counts, arguments.turns)
        of_libraries, of_all = (max(pair) for pair in zip(before, after))
        speeds.append(row["tokens_per_s"])
        best.append(of_libraries)
        shares.append(row["gflops"] / of_libraries)
        shares_of_all.append(row["gflops"] / of_all)
    libraries.child.stdin.close()
    libraries.child.wait()
    percent = lambda share: f"{100 * share:.0f} %"
    whole = lambda rate: f"{rate:.0f}"
    shape = f"{arguments.batch_size} x {arguments.seq_len}"
    columns = [spread(speeds, whole), spread(best, whole), spread(shares, percent), spread(shares_of_all, percent)]
    print("| model | tokens/s | GFLOP/s of the libraries | share | share with ours among them |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| {arguments.model_config}, {shape} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
