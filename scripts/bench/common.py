"""What the PyTorch yardsticks share: flags, model, batches, timing, result.

Each script prints one JSON object with the same keys as `mixce bench --json`, as far as PyTorch knows them.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2Tokenizer  # noqa: E402

IGNORED = -100
"""The label of padding: transformers' and PyTorch's convention for positions without a loss."""

SIZES = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}
"""GPT-2's published sizes, as settings of `GPT2Config`, whose defaults are `gpt2`."""


def parser(description):
    """The flags of every measurement."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model-config", default="gpt2", help=f"{', '.join(SIZES)} or the config.json of a causal language model")
    flags.add_argument("--batch-size", type=int, default=4, help="sequences per step")
    flags.add_argument("--steps", type=int, default=5, help="timed steps")
    flags.add_argument("--warmup", type=int, default=1, help="warm-up steps before the timed ones")
    flags.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's default)")
    flags.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa", help="attention of transformers")
    flags.add_argument("--compile", action="store_true", help="torch.compile the model")
    flags.add_argument("--device", default="cpu", help="cpu or cuda")
    precisions = "bf16: autocast; bf16-weights: parameters in bf16; tf32: products in TF32, on CUDA"
    flags.add_argument("--precision", choices=["f32", "tf32", "bf16", "bf16-weights"], default="f32", help=precisions)
    flags.add_argument("--seed", type=int, default=0, help="seed of weights and tokens")
    return flags


def start(arguments, at_least_one):
    """Checks the flags named in `at_least_one`, sets threads, precision of f32 products and seed."""
    for name in ["batch_size", "steps", *at_least_one]:
        if getattr(arguments, name) < 1:
            raise SystemExit(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(arguments, name)}")
    if arguments.warmup < 0:
        raise SystemExit(f"--warmup: expected at least 0, got {arguments.warmup}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.precision == "tf32" and not arguments.device.startswith("cuda"):
        raise SystemExit("--precision tf32: expected --device cuda")
    torch.set_float32_matmul_precision("high" if arguments.precision == "tf32" else "highest")
    torch.manual_seed(arguments.seed)


# The names of dropout rates in configurations: GPT-2's three, and that of the Llama family.
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout")


def build_model(arguments, tokens, dropout=None, use_cache=False):
    """A GPT-2 or the model of a configuration file, with random weights and room for `tokens` positions."""
    if arguments.model_config in SIZES:
        config = GPT2Config(**SIZES[arguments.model_config])
    else:
        config = AutoConfig.for_model(**json.loads(Path(arguments.model_config).read_text()))
    if dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, dropout)
    if tokens > config.max_position_embeddings:
        raise SystemExit(f"{tokens} tokens are more than the model's {config.max_position_embeddings} positions")
    config.use_cache = use_cache
    dtype = torch.bfloat16 if arguments.precision == "bf16-weights" else torch.float32
    # Drawn on the device: on the CPU the weights of a large model take longer than its steps on a GPU.
    with torch.device(arguments.device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=arguments.attention)


def autocast(arguments):
    """bf16 autocast, or nothing for other precisions."""
    kind = torch.device(arguments.device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=arguments.precision == "bf16")


class RandomBatches:
    """Sequences of `tokens` random ids: no padding."""

    def __init__(self, arguments, vocabulary, tokens):
        self.generator = torch.Generator().manual_seed(arguments.seed)
        self.shape = (arguments.batch_size, tokens)
        self.vocabulary = vocabulary
        self.device = arguments.device

    def next(self):
        """Ids `[B, T]`, labels (the same), no mask."""
        ids = torch.randint(self.vocabulary, self.shape, generator=self.generator).to(self.device)
        return ids, ids, None


class PaddedDocuments:
    """Documents of a text file in its order, each line one, padded to the longest of the batch.

    As `mixce bench --data` cuts them: at most `longest` tokens, the last of them EOS; blank lines are skipped, and after the last
    document comes the first.
    """

    def __init__(self, arguments, path, tokenizer, longest):
        self.tokenizer = load_tokenizer(tokenizer)
        self.eos = self.tokenizer.eos_token_id
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        texts = [line.removesuffix("\r") for line in lines if line.strip()]
        if not texts:
            raise SystemExit(f"{path} holds no document")
        self.documents = [ids[: longest - 1] + [self.eos] for ids in self.tokenizer(texts).input_ids]
        self.position = 0
        self.batch_size = arguments.batch_size
        self.device = arguments.device

    def next(self):
        """Ids `[B, T]` padded with EOS, labels with IGNORED there, mask."""
        numbers = range(self.position, self.position + self.batch_size)
        documents = [self.documents[number % len(self.documents)] for number in numbers]
        self.position += self.batch_size
        longest = max(map(len, documents))
        ids = torch.tensor([document + [self.eos] * (longest - len(document)) for document in documents])
        mask = torch.tensor([[1] * len(document) + [0] * (longest - len(document)) for document in documents])
        labels = ids.masked_fill(mask == 0, IGNORED)
        return ids.to(self.device), labels.to(self.device), mask.to(self.device)


def load_tokenizer(folder):
    """GPT-2's tokenizer from a folder with vocab.json and merges.txt, or with tokenizer.json."""
    folder = Path(folder)
    if not folder.is_dir():
        raise SystemExit(f"--tokenizer: {folder} is no folder")
    if (folder / "tokenizer.json").exists():
        return transformers.AutoTokenizer.from_pretrained(folder)
    return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def time_steps(arguments, step):
    """Tokens and seconds of each counted step. `step()` prepares its data and returns the number of tokens and the work."""
    tokens, seconds = [], []
    for number in range(arguments.warmup + arguments.steps):
        count, work = step()
        started_at = time.perf_counter()
        work()
        if arguments.device.startswith("cuda"):
            torch.cuda.synchronize()
        if number >= arguments.warmup:
            seconds.append(time.perf_counter() - started_at)
            tokens.append(count)
    return tokens, seconds


def peak_memory(device):
    """Bytes: allocated on the GPU, or the largest resident set."""
    if device.startswith("cuda"):
        return {"peak_gpu_bytes": torch.cuda.max_memory_allocated()}
    status = Path("/proc/self/status")
    # On Linux getrusage includes the process that started this one.
    marks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else []
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = int(marks[0]) * 1024 if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_rss_bytes": peak}


def report(bench, arguments, model, tokens, seconds, **more):
    """Prints the result as one JSON object."""
    rates = [count / time for count, time in zip(tokens, seconds)]
    result = {
        "bench": bench,
        "tokens_per_s": statistics.median(rates),
        "tokens_per_s_min": min(rates),
        "tokens_per_s_max": max(rates),
        "step_s": seconds,
        "tokens": tokens,
        **peak_memory(arguments.device),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **more,
        "settings": {**vars(arguments), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    json.dump(result, sys.stdout)
    print()
