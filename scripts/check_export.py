"""Checks that a folder written by `mixce export` is a Hugging Face model that transformers loads without complaint.

    python scripts/check_export.py FOLDER [--logits DUMP.safetensors]

Every Python warning and every warning that transformers logs is a failure, and so are missing, unexpected and
mismatched weights. DUMP holds `input_ids` (`[T]` or `[B, T]`, any integer type) and `logits` (the same with `[V]` behind);
ragged documents one after another may come with `offsets` `[B + 1]`. Exit status: 0 all checks hold, 1 one does not.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402

SENTENCE = "The miller's daughter didn't count 12 boats;  she counted 1,987 – or “more” – côté 🙂.\n"


class CheckFailed(Exception):
    """A check that does not hold, with what was found."""


class WarningCollector(logging.Handler):
    """Keeps what transformers logs at WARNING and above."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def require(condition, message):
    if not condition:
        raise CheckFailed(message)


def check_files(folder):
    """The weights are safetensors with `format: pt`, under names that the model has, each stored once."""
    files = sorted(folder.glob("model*.safetensors"))
    require(files, "no model*.safetensors")
    require((folder / "config.json").is_file(), "no config.json")
    stored = []
    for path in files:
        with safe_open(path, framework="pt") as weights:
            require((weights.metadata() or {}).get("format") == "pt", f"{path.name}: metadata lacks `format: pt`")
            stored += weights.keys()
    require(len(stored) == len(set(stored)), "a weight is stored in two files")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    names = {name for name, _ in model.named_parameters()}
    known = names | {name.removeprefix("transformer.").removeprefix("model.") for name in names}
    extra = sorted(set(stored) - known)
    require(not extra, f"weights that the model does not have (buffers, a duplicated head): {extra[:5]}")
    require(len(stored) == len(names), f"{len(stored)} weights stored, the model has {len(names)}")
    return f"{len(files)} file(s), {len(stored)} weights"


def load_model(folder):
    """Loads in float32 and asks transformers for its own account of the loading."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        require(not info.get(key), f"{key}: {info.get(key)}")
    for name, parameter in model.named_parameters():
        require(torch.isfinite(parameter).all(), f"`{name}` has values that are not finite")
    return model.eval()


def documents_of(dump):
    """`(input_ids [T], logits [T, V])` of every document in the dump."""
    ids, logits = dump["input_ids"].long(), dump["logits"].float()
    require(logits.shape[:-1] == ids.shape, f"input_ids {tuple(ids.shape)} but logits {tuple(logits.shape)}")
    if ids.dim() == 2:
        return list(zip(ids, logits))
    ends = dump["offsets"].tolist() if "offsets" in dump else [0, ids.numel()]
    return [(ids[start:end], logits[start:end]) for start, end in zip(ends, ends[1:]) if end > start]


def check_logits(model, path, atol, rtol):
    """|got - want| <= atol + rtol |want| for every logit of every document."""
    documents = documents_of(load_file(path))
    require(documents, "the dump holds no tokens")
    worst = 0.0
    for index, (ids, got) in enumerate(documents):
        with torch.no_grad():
            want = model(ids[None]).logits[0]
        require(got.shape == want.shape, f"document {index}: logits {tuple(got.shape)}, expected {tuple(want.shape)}")
        require(torch.isfinite(got).all(), f"document {index}: logits that are not finite")
        error = (got - want).abs()
        worst = max(worst, error.max().item())
        over = error - (atol + rtol * want.abs())
        at = divmod(over.argmax().item(), want.shape[1])
        require(
            over.max() <= 0,
            f"document {index}, position {at[0]}, token {at[1]}: got {got[at].item()}, expected {want[at].item()}",
        )
    return f"{len(documents)} document(s), largest difference {worst:.2e}"


def check_tokenizer(folder, model, text):
    """Ids inside the vocabulary, text that survives both ways, and an end token that the model knows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    require(ids, f"{text!r} gives no ids")
    require(max(ids) < model.config.vocab_size, f"id {max(ids)}, but vocab_size is {model.config.vocab_size}")
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    require(back == text, f"{text!r} comes back as {back!r}")
    require(
        tokenizer.eos_token_id == model.config.eos_token_id,
        f"eos is {tokenizer.eos_token_id} in the tokenizer and {model.config.eos_token_id} in the model",
    )
    require(len(tokenizer) <= model.config.vocab_size, f"{len(tokenizer)} tokens, vocab_size {model.config.vocab_size}")
    return f"{len(ids)} ids: {json.dumps(ids[:12])}"


def check_generation(folder, model):
    """The generation configuration, if any, agrees with the model, and `generate` runs."""
    if (folder / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(folder)
        require(config.eos_token_id == model.config.eos_token_id, f"eos {config.eos_token_id} in generation_config.json")
    prompt = torch.tensor([[0, 1]])
    options = {"attention_mask": torch.ones_like(prompt), "pad_token_id": model.config.eos_token_id or 0}
    output = model.generate(prompt, do_sample=False, max_new_tokens=4, **options)
    return f"{output.shape[1] - 2} new tokens"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="exported model folder")
    parser.add_argument("--logits", type=Path, help="safetensors with our program's `input_ids` and `logits`")
    parser.add_argument("--atol", type=float, default=1e-3, help="absolute tolerance on a logit (default 1e-3)")
    parser.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance on a logit (default 1e-4)")
    parser.add_argument("--text", default=SENTENCE, help="sentence to tokenize")
    parser.add_argument("--no-tokenizer", action="store_true", help="the folder holds weights only")
    arguments = parser.parse_args()

    warnings.simplefilter("error")
    transformers.utils.logging.disable_progress_bar()
    collector = WarningCollector()
    logging.getLogger("transformers").addHandler(collector)

    failures = 0

    def check(name, function, *inputs):
        nonlocal failures
        try:
            result = function(*inputs)
            require(not collector.messages, f"transformers warns: {collector.messages}")
        except Exception as error:  # any exception of any library is a failed check
            collector.messages.clear()
            failures += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}")
            return None
        print(f"ok   {name}" + (f": {result}" if isinstance(result, str) else ""))
        return result

    check("files", check_files, arguments.folder)
    model = check("load", load_model, arguments.folder)
    if model is not None:
        if not arguments.no_tokenizer:
            check("tokenizer", check_tokenizer, arguments.folder, model, arguments.text)
        check("generate", check_generation, arguments.folder, model)
        if arguments.logits:
            check("logits", check_logits, model, arguments.logits, arguments.atol, arguments.rtol)
    print("FAIL" if failures else "PASS")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
