//! Runs the examples and checks their output.

#[path = "../examples/own_objective.rs"]
mod own_objective;
#[path = "../examples/train.rs"]
mod train;

use mixce::lm::export::{ExportRequest, NameStyle, TrainingFacts, export};
use mixce::lm::{Parameters, Tokenizer, checkpoint};
use mixce::{Device, FAMILIES, gpt2::Gpt2Config};

#[test]
fn a_folder_is_finetuned_and_can_be_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = "the cat sat on the mat\nthe dog sat on the log\n".repeat(20);
    std::fs::write(path("train.txt"), &text).unwrap();

    let tokenizer = Tokenizer::train(text.lines(), 280).unwrap();
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_positions: 512,
        n_embd: 16,
        n_layer: 1,
        n_head: 2,
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: tokenizer.eos_id(),
        ..Gpt2Config::default()
    };
    let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
    let request = ExportRequest {
        config: &config,
        parameters: &parameters,
        tokenizer: Some(&tokenizer),
        facts: &TrainingFacts::default(),
        names: NameStyle::HuggingFace,
        dtype: candle_core::DType::F32,
    };
    export(&dir.path().join("model"), &request).unwrap();

    train::run(&[path("model"), path("train.txt"), path("run")]).unwrap();
    let trained = checkpoint::load(&dir.path().join("run/final"), FAMILIES, &Device::Cpu).unwrap();
    let values = |p: &Parameters| p.get("wte.weight").unwrap().to_vec2::<f32>().unwrap();
    assert_ne!(values(&trained.parameters), values(&parameters));
    assert!(train::run(&[path("model")]).unwrap_err().to_string().contains("expected MODEL TEXT OUT"));
}

#[test]
fn an_objective_of_ones_own_is_minimised() {
    let [first, last] = own_objective::run().unwrap();
    assert!(last < 0.5 * first, "{first} {last}");
}
