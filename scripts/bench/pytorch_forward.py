"""Times per-token scoring with transformers' GPT-2: the yardstick for `mixce bench forward`.

    python scripts/bench/pytorch_forward.py --batch-size 8 --seq-len 512 --steps 10 --threads 2

A step is the log-probability of every token of a batch of random ids: `model.eval()`, `torch.no_grad()`, logits, log_softmax,
gather. Prints one JSON object; `tokens_per_s` comes from the median step.
"""

import common
import torch


def main(argv=None):
    parser = common.parser(__doc__)
    parser.add_argument("--seq-len", type=int, default=512, help="tokens per sequence")
    arguments = parser.parse_args(argv)
    common.start(arguments, ["seq_len"])
    model = common.build_model(arguments, arguments.seq_len).eval()
    forward = torch.compile(model) if arguments.compile else model
    batches = common.RandomBatches(arguments, model.config.vocab_size, arguments.seq_len + 1)

    def score(ids):
        with torch.no_grad(), common.autocast(arguments):
            logits = forward(ids[:, :-1]).logits
            log_q = logits.log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
            return log_q.float().cpu()

    def step():
        ids, _, _ = batches.next()
        return arguments.batch_size * arguments.seq_len, lambda: score(ids)

    tokens, seconds = common.time_steps(arguments, step)
    common.report("forward", arguments, model, tokens, seconds)


if __name__ == "__main__":
    main()
