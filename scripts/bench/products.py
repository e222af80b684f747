"""Measures f32 matrix products of training: ours, those of the `gemm` crate, and PyTorch's (MKL or OpenBLAS), in turn.

    cargo build --release -p mixce-kernels --example products
    python scripts/bench/products.py --program target/release/examples/products --threads 2

Prints a Markdown table of PyTorch's rate and the medians of each one's rate divided by PyTorch's in the same turn: the clock of a shared machine may
change within seconds, so rates of different moments cannot be compared. Needs torch (scripts/bench/requirements.txt).
"""

import argparse
import os
import statistics
import subprocess
import time

import torch

PLAIN, TRANSPOSED = "plain", "transposed"
# Name, M, K, N and the layouts of both sides of [M, K] [K, N].
PRODUCTS = [
    ("GPT-2's map up, 768 x 3072: `x W`", 1024, 768, 3072, PLAIN, PLAIN),
    ("GPT-2's map down, 3072 x 768: `x W`", 1024, 3072, 768, PLAIN, PLAIN),
    ("GPT-2's map up: `dy W^T`", 1024, 3072, 768, PLAIN, TRANSPOSED),
    ("GPT-2's map up: `x^T dy`", 768, 1024, 3072, TRANSPOSED, PLAIN),
    ("GPT-2's projection, 768 x 768: `x^T dy`", 768, 1024, 768, TRANSPOSED, PLAIN),
    ("SmolLM2's keys, 576 x 192: `x W^T`", 1024, 576, 192, PLAIN, TRANSPOSED),
    ("SmolLM2's map up, 576 x 1536: `x W^T`", 1024, 576, 1536, PLAIN, TRANSPOSED),
    ("SmolLM2's map down, 1536 x 576: `x W^T`", 1024, 1536, 576, PLAIN, TRANSPOSED),
    ("SmolLM2's map up: `dy^T x`", 1536, 1024, 576, TRANSPOSED, PLAIN),
    ("4096 tokens, 768 x 3072: `x W`", 4096, 768, 3072, PLAIN, PLAIN),
]


def operand(rows, columns, layout):
    return torch.randn(columns, rows).t() if layout == TRANSPOSED else torch.randn(rows, columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/examples/products", help="the example, a release build")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side")
    parser.add_argument("--turns", type=int, default=20, help="products of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    environment = os.environ | {"RAYON_NUM_THREADS": str(arguments.threads)}
    child = subprocess.Popen([arguments.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def in_child(*words):
        print(*words, file=child.stdin, flush=True)
        return float(child.stdout.readline())

    print("| product | PyTorch, GFLOP/s | `gemm` / PyTorch | ours / PyTorch |")
    print("| --- | ---: | ---: | ---: |")
    for name, m, k, n, left, right in PRODUCTS:
        a, b, c = operand(m, k, left), operand(k, n, right), torch.empty(m, n)
        seconds, ratios = [], {"gemm": [], "ours": []}
        for turn in range(arguments.turns + 2):
            began = time.perf_counter()
            torch.mm(a, b, out=c)
            own = time.perf_counter() - began
            others = {kind: in_child(kind, m, k, n, left, right) for kind in ratios}
            if turn >= 2:  # the first turns warm up
                seconds.append(own)
                for kind, other in others.items():
                    ratios[kind].append(own / other)
        rate = 2 * m * k * n / statistics.median(seconds) / 1e9
        gemm, ours = (statistics.median(ratios[kind]) for kind in ("gemm", "ours"))
        print(f"| {name} | {rate:.0f} | {gemm:.2f} | {ours:.2f} |", flush=True)
    child.stdin.close()
    child.wait()


if __name__ == "__main__":
    main()
