"""Times sampling with transformers' `generate`: the yardstick for `mixce bench generate`.

    python scripts/bench/pytorch_generate.py --batch-size 32 --prompt-len 50 --new-tokens 64 --steps 5 --threads 2

A step is one call of `generate` on a batch of random prompts: unbiased sampling (`do_sample`, no top-k, no top-p) with a KV
cache. EOS is forbidden (`min_new_tokens`), so every sequence has its full length. Prints one JSON object; `tokens_per_s` counts
new tokens and comes from the median step.
"""

import common
import torch


def main(argv=None):
    parser = common.parser(__doc__)
    parser.add_argument("--prompt-len", type=int, default=50, help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens of each continuation")
    arguments = parser.parse_args(argv)
    common.start(arguments, ["prompt_len", "new_tokens"])
    whole = arguments.prompt_len + arguments.new_tokens
    model = common.build_model(arguments, whole, use_cache=True).eval()
    if arguments.compile:
        model.forward = torch.compile(model.forward)
    batches = common.RandomBatches(arguments, model.config.vocab_size, arguments.prompt_len)
    # A small vocabulary may lie below GPT-2's EOS; any token of its own does.
    eos = model.config.eos_token_id if (model.config.eos_token_id or 0) < model.config.vocab_size else 0

    def sample(ids):
        with torch.no_grad(), common.autocast(arguments):
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=arguments.new_tokens,
                max_new_tokens=arguments.new_tokens,
                eos_token_id=eos,
                pad_token_id=eos,
            )
        if out.shape[1] != whole:
            raise SystemExit(f"expected sequences of {whole} tokens, got {out.shape[1]}")

    def step():
        ids, _, _ = batches.next()
        return arguments.batch_size * arguments.new_tokens, lambda: sample(ids)

    tokens, seconds = common.time_steps(arguments, step)
    common.report("generate", arguments, model, tokens, seconds)


if __name__ == "__main__":
    main()
