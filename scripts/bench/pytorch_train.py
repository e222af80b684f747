"""Times a full training step of transformers' GPT-2 with the MixCE loss: the yardstick for `mixce bench train`.

    python scripts/bench/pytorch_train.py --batch-size 4 --seq-len 256 --steps 10 --threads 2

A step is forward, MixCE loss, backward and AdamW on random token ids, weights drawn at random, dropout on. Prints one JSON
object; `tokens_per_s` comes from the median step. The first `--warmup` steps are not counted.
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
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402


def mixce_loss(logits, targets, eta):
    """mean_t w_t (-log q_t), w_t = eta + (1 - eta) q_t without gradient; logits `[N, V]` in float32."""
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    weight = eta + (1.0 - eta) * (-nll.detach()).exp()
    return (weight * nll).mean()


def build_model(arguments):
    """GPT-2 from a configuration file, or GPT-2 small, with random weights."""
    if arguments.model_config == "gpt2":
        config = GPT2Config()
    else:
        config = GPT2Config.from_json_file(arguments.model_config)
    if arguments.dropout is not None:
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = arguments.dropout
    if arguments.seq_len > config.n_positions:
        raise SystemExit(f"--seq-len {arguments.seq_len} is over n_positions {config.n_positions}")
    config.use_cache = False
    config._attn_implementation = arguments.attention
    return GPT2LMHeadModel(config).to(arguments.device).train()


def peak_memory_bytes(device):
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def time_steps(model, arguments):
    """Seconds of each counted step, and the loss of the last one."""
    forward = torch.compile(model) if arguments.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.batch_size, arguments.seq_len + 1)
    device = arguments.device
    bf16 = arguments.precision == "bf16"
    seconds, loss = [], None
    for step in range(arguments.warmup + arguments.steps):
        ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
        started_at = time.perf_counter()
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            logits = forward(ids[:, :-1]).logits
        loss = mixce_loss(logits.flatten(0, 1), ids[:, 1:].flatten(), arguments.eta)
        del logits
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - started_at)
    return seconds, loss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-config", default="gpt2", help="`gpt2` (124M) or a config.json")
    parser.add_argument("--batch-size", type=int, default=4, help="sequences a step")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before counting")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's default)")
    parser.add_argument("--eta", type=float, default=0.1, help="MixCE's eta; 1 is maximum likelihood")
    parser.add_argument("--lr", type=float, default=5e-5, help="learning rate")
    parser.add_argument("--dropout", type=float, help="all three dropout rates (default: the configuration's)")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16 is autocast")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa", help="attention of transformers")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and tokens")
    arguments = parser.parse_args()
    if min(arguments.batch_size, arguments.seq_len, arguments.steps) < 1 or arguments.warmup < 0:
        raise SystemExit("--batch-size, --seq-len and --steps are at least 1, --warmup at least 0")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = build_model(arguments)
    seconds, loss = time_steps(model, arguments)
    tokens = arguments.batch_size * arguments.seq_len
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    result = {
        "tokens_per_s": tokens / statistics.median(seconds),
        "step_s_median": statistics.median(seconds),
        "step_s": seconds,
        "peak_gpu_bytes" if arguments.device.startswith("cuda") else "peak_rss_bytes": peak_memory_bytes(arguments.device),
        "tokens_per_step": tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "last_loss": loss,
        "settings": {**settings, "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
