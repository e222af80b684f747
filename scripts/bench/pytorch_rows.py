"""Runs many PyTorch measurements in one process, because importing PyTorch takes longer than most of them.

A line on stdin is a JSON array, the name of a script beside this one without `pytorch_`, then its arguments: `["train", "--steps", "3"]`.
The answer is a line on stdout: the script's JSON object, or `{"error": ...}`. The first line, before any is asked for, holds the
versions and what PyTorch sees of a GPU. What anything else prints goes to stderr.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import sys
import traceback

import torch


def answer(script, arguments):
    """The object that a script prints."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            importlib.import_module(f"pytorch_{script}").main(arguments)
        return json.loads(printed.getvalue().splitlines()[-1])
    except (Exception, SystemExit) as error:  # the caller decides whether to go on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def clean_up():
    """Leaves the GPU as a new process would, but for PyTorch's context."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main():
    # Compilers started by PyTorch write to the process's stdout too; only answers may.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None, "transformers": None}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    with contextlib.suppress(ImportError):
        facts["transformers"] = importlib.import_module("transformers").__version__
        importlib.import_module("pytorch_train")
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        script, *arguments = json.loads(line)
        print(json.dumps(answer(script, arguments)), file=answers)
        clean_up()


if __name__ == "__main__":
    main()
