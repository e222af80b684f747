"""Measures what a device can do, through PyTorch: copies, and matrix products at the shapes of a language model.

    python scripts/bench/pytorch_ceilings.py --device cuda

The products are a large square, those of a GPT-2 block, and those of the LM head, whose rows of logits lie either 50257 (GPT-2's
vocabulary) or 50304 (the next multiple of 64) numbers apart: rows of bf16 that start at odd addresses keep a GPU from its fast
paths. Prints one JSON object with a list of measurements; `--small` is for trying the script.
"""

import argparse
import json
import statistics
import time

import torch

TARGET_S = 0.2
"""Repetitions of a measurement take about this long together, after one to warm up."""


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tokens", type=int, default=8192, help="rows of a product")
    parser.add_argument("--channels", type=int, default=768, help="width of the model")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    arguments = parser.parse_args(argv)
    if arguments.small:
        arguments.tokens, arguments.channels = 64, 32
    if min(arguments.tokens, arguments.channels) < 1:
        parser.error("--tokens and --channels: expected at least 1")
    return arguments


class Clock:
    """Seconds of one run of some work, from batches of runs queued without waiting in between."""

    def __init__(self, device):
        self.synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def batch(self, work, repetitions):
        self.synchronize()
        started_at = time.perf_counter()
        for _ in range(repetitions):
            work()
        self.synchronize()
        return (time.perf_counter() - started_at) / repetitions

    def seconds(self, work):
        """The median of three batches."""
        self.batch(work, 1)
        once = max(self.batch(work, 1), 1e-6)
        repetitions = min(max(int(TARGET_S / 3 / once), 1), 1000)
        return statistics.median(self.batch(work, repetitions) for _ in range(3))


def copies(arguments, clock):
    """Bandwidth of a copy, bytes read and bytes written, and of a fill."""
    count = 1 << (16 if arguments.small else 30)
    source = torch.ones(count, device=arguments.device)
    target = torch.empty_like(source)
    yield {"name": "copy", "gb_per_s": 8 * count / clock.seconds(lambda: target.copy_(source)) / 1e9}
    yield {"name": "fill", "gb_per_s": 4 * count / clock.seconds(target.zero_) / 1e9}


def products(arguments, clock, precision):
    """Products `[m, k] [k, n]` in one precision."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")

    def random(*shape):
        return torch.randn(*shape, device=arguments.device, dtype=dtype)

    def product(name, a, b, out=None):
        (m, k), n = a.shape, b.shape[1]
        out = torch.empty(m, n, device=arguments.device, dtype=dtype) if out is None else out
        seconds = clock.seconds(lambda: torch.matmul(a, b, out=out))
        rate = 2 * m * k * n / seconds / 1e12
        return {"name": name, "precision": precision, "shape": [m, k, n], "ms": 1e3 * seconds, "tflops": rate}

    tokens, c = arguments.tokens, arguments.channels
    side = 64 if arguments.small else 8192
    yield product("square", random(side, side), random(side, side))
    hidden = random(tokens, c)
    for name, columns in [("queries, keys, values", 3 * c), ("MLP, up", 4 * c)]:
        yield product(name, hidden, random(c, columns))
    yield product("MLP, down", random(tokens, 4 * c), random(4 * c, c))
    vocabulary, padded = (101, 128) if arguments.small else (50257, 50304)
    for pitch in (vocabulary, padded):
        weight = random(pitch, c)[:vocabulary]
        logits = random(tokens, pitch)[:, :vocabulary]
        heads = [
            product("LM head, logits", hidden, weight.t(), logits),
            product("LM head, gradient of hidden states", logits, weight),
            product("LM head, gradient of weights", logits.t(), hidden),
        ]
        yield from ({**head, "pitch": pitch} for head in heads)


def main(argv=None):
    arguments = parse(argv)
    clock = Clock(arguments.device)
    rows = list(copies(arguments, clock))
    cuda = arguments.device.startswith("cuda")
    for precision in ("bf16", "tf32", "f32") if cuda else ("bf16", "f32"):
        rows += products(arguments, clock, precision)
    torch.set_float32_matmul_precision("highest")
    device = torch.cuda.get_device_name() if cuda else "cpu"
    print(
        json.dumps({"bench": "ceilings", "device": device, "torch": torch.__version__, "rows": rows, "settings": vars(arguments)})
    )


if __name__ == "__main__":
    main()
