//! Gradients that are summed during the backward pass have the bits of those that are summed afterwards.
use std::sync::Arc;

use mixce_lm::ModelConfig;
use mixce_train::config::TrainConfig;

use crate::common::{Setup, documents, tiny_config};
use crate::distributed::{Extra, config, plainly, train_on};
use crate::sharded::{assert_same, sharded};

/// Buckets that cut parameters and blocks anywhere, and one bucket, which is complete when the pass is, against a sharded optimizer, for
/// which sums are made after the pass. Ragged documents, several microbatches with dropout; on 3 ranks one has no part of the last
/// microbatch.
#[test]
fn buckets_of_any_size_have_the_same_bits() {
    let config = TrainConfig { batch_size: 2, grad_accum: 3, weight_decay: 0.1, ..config() };
    let models: [(&str, Arc<dyn ModelConfig>); 2] =
        [("gpt2", Arc::new(tiny_config())), ("llama", Arc::new(crate::resume::tiny_llama()))];
    for (name, model) in models {
        let setup = Setup::of(model, &documents(43, 1), Some(&documents(9, 2)));
        for size in [2, 3] {
            let name = format!("{name}-{size}");
            let after = plainly(size, &setup, &format!("{name}-after"), &sharded(&config));
            for bucket in [37, 1000, usize::MAX] {
                let name = format!("{name}-{bucket}");
                let extra = Extra { bucket: Some(bucket), ..Extra::default() };
                assert_same(&after, &train_on(size, &setup, &name, &config, &extra), &name);
            }
        }
    }
}
