//! Finetunes a checkpoint with MixCE and exports it for Hugging Face tools.
//!
//! ```text
//! cargo run --release -p mixce --example train -- openai-community/gpt2 train.txt runs/first
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use mixce::prelude::*;

/// `arguments`: a model (a folder or an id on the hub), a file of documents (one per line), and a new run folder.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [model, text, out] = arguments else { return Err("expected MODEL TEXT OUT".into()) };
    let folder = match ModelSource::parse(model)? {
        ModelSource::Local(folder) => folder,
        ModelSource::Hub(id) => {
            Hub::new(HubEnvironment::from_process()?)?.fetch_model(&id, &mut NoProgress)?.path
        }
    };
    let config = TrainConfig {
        train: Some(DataFiles(vec![text.into()])),
        model: Some(model.clone()),
        out: Some(out.into()),
        eta: Some(0.1),
        epochs: 1,
        ..TrainConfig::default()
    };
    let (device, stop) = (Device::Cpu, AtomicBool::new(false));
    let sources = Sources { model: Some(folder.clone()), tokenizer: folder };
    let prepared = prepare(&config, &sources, FAMILIES, &device, Room::Require, &stop)?;
    let outcome = launch(&config, prepared, &Provenance::of(&device), &mut [], &stop)?;
    println!("{} steps; the model is in {:?}", outcome.steps, outcome.final_model);
    Ok(())
}

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
