#!/usr/bin/env python3
"""Writes the seeds of all fuzz targets into fuzz/corpus: the fixtures of the tests, and small files made here.

    python3 fuzz/seeds.py [MIXCE]

MIXCE is the program. With it, a short run gives the seeds of `state_manifest`, `token_cache` and `toml` in today's formats.
"""

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
CORPUS = ROOT / "fuzz" / "corpus"
MAX_BYTES = 64 << 10  # larger seeds make a fuzzer slow


def seed(target, name, data):
    """Adds one seed."""
    if len(data) <= MAX_BYTES:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def fixtures(target, pattern, prefix=b""):
    """Adds the fixtures that match a pattern."""
    for path in sorted(FIXTURES.glob(pattern)):
        seed(target, str(path.relative_to(FIXTURES)).replace("/", "-"), prefix + path.read_bytes())


def weights():
    """Weight files; of PyTorch's also the pickle alone, which the target puts into an archive."""
    for pattern in ["gpt2/formats/*/*.bin", "gpt2/formats/*/*.pt"]:
        fixtures("pickle", pattern)
        for path in sorted(FIXTURES.glob(pattern)):
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                    seed("pickle", f"{path.parent.name}-{path.name}.pkl", archive.read(entry))
    seed("pickle", "dicts", b"\x80\x02" + b"}" * 1000 + b".")
    seed("pickle", "memo", b"\x80\x02N" + b"\x94h\0" * 100 + b".")
    fixtures("safetensors", "gpt2/formats/safetensors_*/model.safetensors")
    header = {"a": {"dtype": "F32", "shape": [1 << 40, 0], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    seed("safetensors", "empty-but-huge", struct.pack("<Q", len(text)) + text)
    fixtures("safetensors_index", "gpt2/formats/sharded/*.index.json")
    fixtures("gguf", "gguf/*.gguf")
    for pattern in ["gpt2/*/config.json", "gpt2/formats/*/config.json", "llama/*/config.json"]:
        fixtures("config", pattern)


def tokenizers():
    """Tokenizers with every part that the library has, and those that break it."""
    fixtures("tokenizer", "tokenizer/tokenizer.json")
    base = json.loads((FIXTURES / "tokenizer" / "tokenizer.json").read_text())
    base["model"]["vocab"] = {token: id for token, id in base["model"]["vocab"].items() if id < 256}
    base["model"]["merges"] = []
    base["added_tokens"] = []
    base["post_processor"] = None

    def variant(name, **parts):
        seed("tokenizer", name, json.dumps({**base, **parts}).encode())

    pattern = {"String": "e"}
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}
    bert = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    for normalizer in [
        {"type": "Replace", "pattern": pattern, "content": "ee"},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAAAAA="},
        {"type": "Sequence", "normalizers": [{"type": name} for name in ["NFC", "NFKD", "Lowercase", "StripAccents"]]},
        {"type": "Prepend", "prepend": "_"},
        {"type": "BertNormalizer", **bert},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]:
        variant(f"normalizer-{normalizer['type']}-{len(json.dumps(normalizer))}", normalizer=normalizer)
    for pre in [
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 3},
        split,
        {"type": "Sequence", "pretokenizers": [split, {"type": "Digits", "individual_digits": True}]},
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
        {"type": "UnicodeScripts"},
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "CharDelimiterSplit", "delimiter": "-"},
    ]:
        variant(f"pre-{pre['type']}-{len(json.dumps(pre))}", pre_tokenizer=pre)
    for decoder in [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
    ]:
        variant(f"decoder-{decoder['type']}", decoder=decoder)
    tokens = {token: n for n, token in enumerate(["[UNK]", "a", "##a", "the", "mill", "##ing"])}
    for model in [
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": tokens},
        {"type": "WordLevel", "unk_token": "[UNK]", "vocab": tokens},
        {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [[token, -float(n)] for token, n in tokens.items()]},
        {"type": "BPE", "dropout": 0.5, "unk_token": "[UNK]", "vocab": tokens, "merges": [["##a", "a"]]},
        {"type": "BPE", "vocab": {"a": 1 << 31}, "merges": []},
    ]:
        variant(f"model-{model['type']}-{len(json.dumps(model))}", model=model, pre_tokenizer={"type": "Whitespace"}, decoder=None)
    added = {"id": 6, "content": "<s>", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True, "special": True}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [6], "tokens": ["<s>"]}},
    }
    variant("template", added_tokens=[added], post_processor=template)


def data():
    """Tables, lines and numbers."""
    lines = b'{"text": "the mill", "id": 1}\n{"text": "the river"}\n[1, {"text": null}]\n'
    seed("jsonl", "plain", lines)
    seed("jsonl", "array", b'[{"text": "a\\u0000\\ud83d\\ude42"}, {"story": ["b"]}]')
    seed("jsonl", "encoded", '{"text": "für"}\n'.encode("utf-16"))
    table = b'text,label\n"the ""old"" mill\nran",1\nriver,2\n'
    seed("csv", "plain", table)
    seed("csv", "tabs", table.replace(b",", b"\t"))
    seed("csv", "commas", gzip.compress(b"," * 100_000, mtime=0))
    for name, squeeze in [("gzip", lambda raw: gzip.compress(raw, mtime=0)), ("bzip2", bz2.compress), ("xz", lzma.compress)]:
        seed("jsonl", name, squeeze(lines))
        seed("csv", name, squeeze(table))
    fixtures("parquet", "data/*.parquet")
    seed("csv_matrix", "plain", b"0.5,0.5\n0.25,0.75\n")
    seed("csv_matrix", "bad", b"1e400,-nan\n, \n")
    fixtures("npy", "metrics/*.npy")
    for descr, order in [("<f8", "False"), ("<f4", "True"), (">f2", "False")]:
        head = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 2), }}"
        head = head.ljust(117) + "\n"
        seed("npy", f"{descr[1:]}-{order}", b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode() + bytes(8 * int(descr[2])))


def hub():
    """Answers to a listing of files, which the first byte makes a body."""
    listing = {"sha": "0" * 40, "siblings": [{"rfilename": "config.json", "size": 2, "blobId": "0" * 40}]}
    body = json.dumps(listing).encode()
    seed("hub_answer", "listing", b"\x01" + body)
    seed("hub_answer", "redirect", b"\0HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n")
    seed("hub_answer", "chunked", b"\0HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n[1,2]\r\n0\r\n\r\n")
    seed("hub_answer", "endless", b"\0HTTP/1.1 200 OK\r\n\r\n" + body)
    seed("hub_answer", "error", b'\0HTTP/1.1 401 No\r\nx-error-code: GatedRepo\r\ncontent-length: 2\r\n\r\n{}')


def run_of(mixce):
    """A run of two steps: a token cache, a checkpoint, a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "train.txt").write_text("the old mill ran.\n" * 12)
        arguments = f"--from-config {FIXTURES}/run-0.1.0/config.json --tokenizer {FIXTURES}/tokenizer --train train.txt --out run"
        arguments += " --cache-dir cache --max-steps 2 --batch-size 2 --max-length 16 --skip-outlier-steps 9"
        subprocess.run([mixce, "train", *arguments.split()], cwd=folder, check=True)
        seed("token_cache", "run", next((folder / "cache").glob("*.tokens")).read_bytes())
        seed("toml", "run", (folder / "run" / "run.toml").read_bytes())
        checkpoint = next((folder / "run" / "checkpoints").iterdir())
        # As in `state_manifest` of src/lib.rs.
        for kind, name in enumerate(["state.json", "COMPLETE", "model.safetensors", "optimizer.safetensors"]):
            seed("state_manifest", name, bytes([kind]) + (checkpoint / name).read_bytes())


def main():
    weights()
    tokenizers()
    data()
    hub()
    fixtures("toml", "run-0.1.0/run/run.toml")
    fixtures("state_manifest", "run-0.1.0/run/checkpoints/*/state.json", b"\0")
    fixtures("state_manifest", "run-0.1.0/run/checkpoints/*/COMPLETE", b"\1")
    if len(sys.argv) > 1:
        run_of(Path(sys.argv[1]).resolve())
    for target in sorted(CORPUS.iterdir()):
        print(f"{target.name}: {len(list(target.iterdir()))} seeds")


if __name__ == "__main__":
    main()
