//! Gradients that are summed during the backward pass have the bits of those that are summed afterwards.
use std::sync::Arc;

use mixce_lm::ModelConfig;
use mixce_train::config::TrainConfig;
use mixce_train::distributed::ReduceDtype;

use crate::common::{Setup, documents, tiny_config};
use crate::distributed::{Extra, config, train_on};
use crate::sharded::{assert_same, sharded};

/// Buckets that cut parameters and blocks anywhere, against one bucket, which is complete when the pass is, with whole and with sharded
/// optimizers. Ragged documents, several microbatches with dropout; on 3 ranks one has no part of the last
/// microbatch.
#[test]
fn buckets_of_any_size_have_the_same_bits() {
    let config = TrainConfig { batch_size: 2, grad_accum: 3, weight_decay: 0.1, ..config() };
    let models: [(&str, Arc<dyn ModelConfig>); 2] =
        [("gpt2", Arc::new(tiny_config())), ("llama", Arc::new(crate::resume::tiny_llama()))];
    for (name, model) in models {
        let setup = Setup::of(model, &documents(43, 1), Some(&documents(9, 2)));
        for size in [2, 3] {
            let run = |bucket: usize, config: &TrainConfig| {
                let name =
                    format!("{name}-{size}-{bucket}-{}-{}", config.shard_optimizer, config.grad_reduce_dtype);
                let extra = Extra { bucket: Some(bucket), ..Extra::default() };
                (train_on(size, &setup, &name, config, &extra), name)
            };
            for dtype in [ReduceDtype::F32, ReduceDtype::Bf16] {
                let config = TrainConfig { grad_reduce_dtype: dtype, ..config.clone() };
                let (after, _) = run(usize::MAX, &config);
                for (bucket, shard) in
                    [37, 1000, usize::MAX].into_iter().flat_map(|b| [(b, false), (b, true)])
                {
                    if (bucket, shard) == (usize::MAX, false) {
                        continue;
                    }
                    let config = if shard { sharded(&config) } else { config.clone() };
                    let (ranks, name) = run(bucket, &config);
                    assert_same(&after, &ranks, &name);
                }
            }
        }
    }
}
