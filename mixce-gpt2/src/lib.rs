//! GPT-2 on candle: configuration, checkpoints, tokenizer, packed forward pass, sampling, hub.

pub mod hub;
