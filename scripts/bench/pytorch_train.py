"""Times a full training step of transformers' GPT-2 with the MixCE loss: the yardstick for `mixce bench train`.

    python scripts/bench/pytorch_train.py --batch-size 4 --seq-len 256 --steps 10 --threads 2

A step is forward, MixCE loss, backward and AdamW, dropout on, weights drawn at random; on random token ids, or with --data on
documents padded to the longest of the batch. Tokens are target tokens, padding left out. Prints one JSON object;
`tokens_per_s` comes from the median step. The first `--warmup` steps are not counted.
"""

import common
import torch


def mixce_loss(logits, labels, eta):
    """mean_t w_t (-log q_t) over the labels that are not IGNORED, w_t = eta + (1 - eta) q_t without gradient; logits `[N, V]`."""
    nll = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=common.IGNORED, reduction="none")
    weight = eta + (1.0 - eta) * (-nll.detach()).exp()
    return (weight * nll).sum() / (labels != common.IGNORED).sum()


class TrainStep:
    """Model, optimizer and batches; a call prepares a step."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.model = common.build_model(arguments, arguments.seq_len, dropout=arguments.dropout).train()
        self.forward = torch.compile(self.model) if arguments.compile else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=arguments.lr, fused=arguments.fused_adamw or None)
        self.last_loss = None
        if arguments.data:
            self.batches = common.PaddedDocuments(arguments, arguments.data, arguments.tokenizer, arguments.seq_len)
        else:
            self.batches = common.RandomBatches(arguments, self.model.config.vocab_size, arguments.seq_len + 1)

    def __call__(self):
        ids, labels, mask = self.batches.next()
        labels = labels[:, 1:]
        return int((labels != common.IGNORED).sum()), lambda: self.run(ids[:, :-1], labels, mask)

    def run(self, ids, labels, mask):
        with common.autocast(self.arguments):
            inputs = {} if mask is None else {"attention_mask": mask[:, :-1]}
            logits = self.forward(ids, **inputs).logits
        loss = mixce_loss(logits.flatten(0, 1), labels.flatten(), self.arguments.eta)
        del logits
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last_loss = loss.item()


def main(argv=None):
    parser = common.parser(__doc__)
    parser.add_argument("--seq-len", type=int, default=256, help="tokens per sequence; with --data the longest document")
    parser.add_argument("--data", help="text file, one document per line, instead of random tokens")
    parser.add_argument("--tokenizer", help="folder of the tokenizer of --data")
    parser.add_argument("--eta", type=float, default=0.1, help="MixCE's eta; 1 is maximum likelihood")
    parser.add_argument("--lr", type=float, default=5e-5, help="learning rate")
    parser.add_argument("--dropout", type=float, help="all three dropout rates (default: the configuration's)")
    parser.add_argument("--fused-adamw", action="store_true", help="AdamW in one kernel instead of PyTorch's default")
    arguments = parser.parse_args(argv)
    if bool(arguments.data) != bool(arguments.tokenizer):
        raise SystemExit("--data and --tokenizer go together")
    common.start(arguments, ["seq_len"])
    step = TrainStep(arguments)
    tokens, seconds = common.time_steps(arguments, step)
    common.report("train", arguments, step.model, tokens, seconds, last_loss=step.last_loss)


if __name__ == "__main__":
    main()
