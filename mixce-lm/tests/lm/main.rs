//! Tokenizers and GGUF files through the public interface.
mod common;
mod gguf;
mod hostile_tokenizer;
mod layouts;
mod tokenizer;
