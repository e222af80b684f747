//! Writes the logits of a text as safetensors, for comparison with another implementation.
//!
//! ```text
//! cargo run --release -p mixce-gpt2 --example dump_logits -- MODEL_FOLDER OUT.safetensors "some text"
//! python scripts/check_export.py MODEL_FOLDER --logits OUT.safetensors
//! ```

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use mixce_gpt2::FAMILY;
use mixce_lm::{Tokenizer, checkpoint};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out, text] = arguments.as_slice() else {
        return Err("expected MODEL_FOLDER OUT.safetensors TEXT".into());
    };
    let checkpoint = checkpoint::load(Path::new(folder), &[&FAMILY], &Device::Cpu)?;
    let ids = Tokenizer::from_dir(Path::new(folder))?.encode(text)?;
    let model = checkpoint.config.build(checkpoint.parameters)?;
    let hidden = model.hidden_states(&model.pack(&[&ids])?, None)?;
    let logits = hidden.matmul(&model.lm_head().t()?)?;
    let input_ids = Tensor::from_vec(ids.iter().map(|id| i64::from(*id)).collect(), ids.len(), &Device::Cpu)?;
    let tensors = HashMap::from([("input_ids", input_ids), ("logits", logits)]);
    candle_core::safetensors::save(&tensors, out)?;
    Ok(())
}
