"""What small runs need: a configuration, documents, and prompts, all made here; the tokenizer comes with the bundle."""

import json
import random
from pathlib import Path

SUBJECTS = "the river,a ship,an old map,her brother,the baker,a grey cat,the moon,his letter,their garden,the train".split(",")
VERBS = "crossed,followed,remembered,lost,carried,painted,opened,waited for,sang to,hid from".split(",")
PLACES = "under the bridge,at noon,in the snow,before the storm,near the mill,for a year,without a word,by the sea".split(",")


def documents(count, seed):
    """Sentences, one document each; the same for the same seed."""
    draw = random.Random(seed)
    parts = (SUBJECTS, VERBS, SUBJECTS, PLACES)

    def sentence():
        return " ".join(draw.choice(part) for part in parts).capitalize() + "."

    return [" ".join(sentence() for _ in range(draw.randint(1, 3))) for _ in range(count)]


class Inputs:
    """The files of small runs, in a folder."""

    def __init__(self, folder, tokenizer):
        self.folder, self.tokenizer = Path(folder), Path(tokenizer)
        vocabulary = json.loads((self.tokenizer / "vocab.json").read_text(encoding="utf-8"))
        self.end = vocabulary["<|endoftext|>"]
        self.vocabulary = max(vocabulary.values()) + 1
        self.tiny = self.config("tiny", n_embd=64, n_layer=2, n_head=2)
        llama = {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        llama.update(num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True)
        self.tiny_llama = self.config("tiny-llama", **llama)
        self.small = self.config("small", n_embd=768, n_layer=12, n_head=12)
        self.train = self.lines("train.txt", documents(400, 1))
        self.valid = self.lines("valid.txt", documents(40, 2))
        self.prompts = self.lines("prompts.txt", [text[:20].rsplit(" ", 1)[0] for text in documents(96, 3)])

    def config(self, name, **shape):
        """A model of that shape over the tokenizer's vocabulary, a GPT-2 if nothing else is said."""
        path = self.folder / f"{name}.json"
        defaults = {} if "model_type" in shape else {"model_type": "gpt2", "n_positions": 256}
        tokens = {"vocab_size": self.vocabulary, "bos_token_id": self.end, "eos_token_id": self.end}
        path.write_text(json.dumps({**defaults, **tokens, **shape}))
        return path

    def lines(self, name, texts):
        path = self.folder / name
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    def training(self, config, out, steps, **flags):
        """Arguments of `mixce train` for a short run that logs every step and exports its last model."""
        words = [
            "train",
            "--from-config",
            config,
            "--tokenizer",
            self.tokenizer,
            "--train",
            self.train,
            "--valid",
            self.valid,
            "--out",
            out,
        ]
        words += ["--max-steps", steps, "--batch-size", 16, "--grad-accum", 2, "--max-length", 64, "--lr", "1e-3"]
        words += ["--log-every", 1, "--eval-every", "never", "--save-every", "never", "--seed", 7, "--json", "--quiet"]
        for name, value in flags.items():
            words += [f"--{name}", value]
        return words

    def sampling(self, model, new_tokens, **flags):
        """Arguments of `mixce generate` from all prompts."""
        words = ["generate", "--model", model, "--prompts", self.prompts, "--max-new-tokens", new_tokens, "--batch-size", 48]
        words += ["--seed", 7, "--json", "--quiet"]
        for name, value in flags.items():
            words += [f"--{name}", value]
        return words
