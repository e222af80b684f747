//! AdamW's moments divided over the ranks change nothing but memory and messages.
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::Device;
use mixce_core::OBJECTIVES;
use mixce_core::objective::MixCe;
use mixce_gpt2::Gpt2Config;
use mixce_kernels::rng::Stream;
use mixce_lm::{ModelConfig, Parameters};
use mixce_train::Result;
use mixce_train::config::{Every, TrainConfig};
use mixce_train::data::Microbatch;
use mixce_train::distributed::{Communicator, ReduceDtype, ThreadRank, calls_per_step, exchanged_bytes};
use mixce_train::optim::AdamWConfig;
use mixce_train::trainer::{End, TrainStep};

use crate::common::{Setup, documents, tiny_config};
use crate::distributed::{Extra, Ranks, bits, config, plainly, train_on};

/// A model whose embedding is divided: it has four chunks of the gradient norm.
fn wide() -> Arc<dyn ModelConfig> {
    Arc::new(Gpt2Config { vocab_size: 4096, ..tiny_config() })
}

pub(crate) fn sharded(config: &TrainConfig) -> TrainConfig {
    TrainConfig { shard_optimizer: true, ..config.clone() }
}

/// The same weights bit for bit on all ranks of both runs, and the same reports.
pub(crate) fn assert_same(whole: &Ranks, sharded: &Ranks, name: &str) {
    let weights = bits(&whole[0].0);
    for (rank, (outcome, _)) in sharded.iter().enumerate() {
        assert!(bits(outcome) == weights, "{name}: the weights of rank {rank} differ");
    }
    let reports = |ranks: &Ranks| -> Vec<_> {
        let steps = &ranks[0].1.steps;
        steps.iter().map(|s| (s.step, s.loss, s.nll, s.mean_weight, s.grad_norm, s.skipped)).collect()
    };
    assert_eq!(reports(sharded), reports(whole), "{name}");
    let scores = |ranks: &Ranks| -> Vec<_> {
        ranks[0].1.evaluations.iter().map(|e| (e.step, e.valid_nll, e.valid_loss, e.best)).collect()
    };
    assert_eq!(scores(sharded), scores(whole), "{name}");
}

#[test]
fn every_objective_has_the_same_bits_on_2_3_and_4_ranks() {
    let setup = Setup::new(&documents(43, 1), Some(&documents(9, 2)));
    for objective in OBJECTIVES {
        let config = TrainConfig {
            objective: objective.name.parse().unwrap(),
            eta: None,
            eval_every: Every::Steps(7),
            ..config()
        };
        for size in [2, 3, 4] {
            let name = format!("{}-{size}", objective.name);
            let whole = plainly(size, &setup, &name, &config);
            let divided = plainly(size, &setup, &format!("{name}-sharded"), &sharded(&config));
            assert_same(&whole, &divided, &name);
        }
    }
}

/// Clipping, weight decay and skipped steps; parameters that are divided between ranks, also of a Llama.
#[test]
fn other_settings_and_divided_parameters_have_the_same_bits() {
    let config = TrainConfig {
        batch_size: 2,
        grad_accum: 3,
        clip_grad_norm: 0.5,
        weight_decay: 0.1,
        skip_outlier_steps: Some(1.02),
        activation_checkpointing: true,
        ..config()
    };
    let llama: Arc<dyn ModelConfig> = Arc::new(crate::resume::tiny_llama());
    for (name, model) in [("gpt2", wide()), ("llama", llama)] {
        let setup = Setup::of(model, &documents(43, 1), None);
        for size in [2, 3, 4] {
            let name = format!("{name}-{size}");
            let whole = plainly(size, &setup, &name, &config);
            assert!(whole[0].1.steps.iter().any(|step| step.skipped), "{name} has a step to skip");
            let divided = plainly(size, &setup, &format!("{name}-sharded"), &sharded(&config));
            assert_same(&whole, &divided, &name);
        }
    }
}

#[test]
fn one_process_has_nothing_to_divide() {
    let setup = Setup::new(&documents(20, 1), None);
    let whole = plainly(1, &setup, "whole", &config());
    assert_same(&whole, &plainly(1, &setup, "sharded", &sharded(&config())), "one process");
}

/// Checkpoints of 4 ranks with and without shards are equal, and any number of ranks continues from them, with and without.
#[test]
fn a_checkpoint_knows_of_no_shards() {
    let setup = Setup::of(wide(), &documents(43, 1), Some(&documents(9, 2)));
    let config = TrainConfig { eval_every: Every::Steps(5), ..config() };
    let stop = || Extra { stop_after: Some(9), ..Extra::default() };
    let stopped = train_on(4, &setup, "sharded", &sharded(&config), &stop());
    train_on(4, &setup, "whole", &config, &stop());
    assert_eq!(stopped[0].0.as_ref().unwrap().end, End::Interrupted);
    let file = |run: &str, name: &str| {
        fs::read(setup.path(run).join("checkpoints/step-00000009").join(name)).unwrap()
    };
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(file("sharded", name) == file("whole", name), "{name} differs");
    }
    let resumed = TrainConfig { resume: Some("auto".into()), ..config };
    let continued = |size: usize, config: &TrainConfig| {
        let name = format!("continued-{size}-{}", config.shard_optimizer);
        copy_folder(&setup.path("sharded"), &setup.path(&name));
        plainly(size, &setup, &name, config)
    };
    for size in [1, 2, 4] {
        let (whole, divided) = (continued(size, &resumed), continued(size, &sharded(&resumed)));
        assert_eq!(whole[0].1.steps[0].step, 10);
        assert_same(&whole, &divided, &format!("continued on {size}"));
    }
    // Unsharded, then sharded on another number of ranks: as if it had been sharded all the time.
    let divided = plainly(2, &setup, "whole", &sharded(&resumed));
    copy_folder(&setup.path("sharded"), &setup.path("again"));
    assert_same(&plainly(2, &setup, "again", &sharded(&resumed)), &divided, "unsharded to sharded");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Counts calls, and the bytes of values that a rank sends when every other rank gets what it needs from it, as MPI does it.
#[derive(Debug)]
struct Counted {
    rank: ThreadRank,
    calls: AtomicUsize,
    bytes: AtomicU64,
}

impl Counted {
    fn call(&self, values: usize, dtype: ReduceDtype) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(dtype.bytes() * values as u64, Ordering::Relaxed);
    }
}

impl Communicator for Counted {
    fn rank(&self) -> usize {
        self.rank.rank()
    }

    fn size(&self) -> usize {
        self.rank.size()
    }

    fn timeout(&self) -> Duration {
        self.rank.timeout()
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.call(0, ReduceDtype::F32);
        self.rank.all_gather(own)
    }

    fn abort(&self, status: u8) {
        self.rank.abort(status);
    }

    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        let (total, size, rank) = (values.len(), self.size(), self.rank());
        let share = total * (rank + 1) / size - total * rank / size;
        self.call(total - share + share * (size - 1), dtype);
        self.rank.all_reduce_f32(values, dtype)
    }

    fn reduce_scatter_f32(&self, values: &[f32], lengths: &[usize], dtype: ReduceDtype) -> Result<Vec<f32>> {
        self.call(values.len() - lengths[self.rank()], dtype);
        self.rank.reduce_scatter_f32(values, lengths, dtype)
    }

    fn all_gather_f32(&self, own: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        self.call(own.len() * (self.size() - 1), ReduceDtype::F32);
        self.rank.all_gather_f32(own, lengths)
    }
}

/// A model of more than one message, of which the embedding alone takes one.
#[test]
fn a_step_makes_the_planned_calls_and_sends_the_planned_bytes() {
    let model: Arc<dyn ModelConfig> = Arc::new(Gpt2Config { vocab_size: 70_000, ..tiny_config() });
    let lengths = || model.parameter_specs().into_iter().map(|spec| spec.shape.iter().product::<usize>());
    let parameters = model.spec().parameters;
    assert_eq!(lengths().sum::<usize>() as u64, parameters);
    let microbatch = Microbatch { examples: documents(5, 1) };
    let cases = [(2, false), (2, true), (3, false), (3, true)];
    let cases = cases.into_iter().flat_map(|case| [(case, ReduceDtype::F32), (case, ReduceDtype::Bf16)]);
    for ((size, sharded), dtype) in cases {
        let of_rank = |rank: ThreadRank| {
            let counted = Arc::new(Counted { rank, calls: AtomicUsize::new(0), bytes: AtomicU64::new(0) });
            let weights = Parameters::random(&*model, 3, &Device::Cpu).unwrap();
            let objective = Arc::new(MixCe::new(0.5).unwrap());
            let step = TrainStep::new(&*model, weights, objective, AdamWConfig::default(), 1.0).unwrap();
            let step = step.with_ranks(counted.clone()).unwrap().with_reduce_dtype(dtype);
            let mut step = if sharded { step.with_sharded_optimizer().unwrap() } else { step };
            let batch = std::slice::from_ref(&microbatch);
            step.run(batch, Stream::new(1), 1e-3, &AtomicBool::new(false)).unwrap();
            (counted.calls.load(Ordering::Relaxed), counted.bytes.load(Ordering::Relaxed))
        };
        let ranks = ThreadRank::all(size, Duration::from_secs(60));
        let counts: Vec<(usize, u64)> = std::thread::scope(|scope| {
            let of_rank = &of_rank;
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || of_rank(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let calls = calls_per_step(lengths(), size, sharded);
        assert!(calls > 3 + usize::from(sharded), "more than one message");
        assert!(counts.iter().all(|(counted, _)| *counted == calls), "{counts:?}, planned {calls}");
        let sent: u64 = counts.iter().map(|(_, bytes)| bytes).sum();
        let planned = exchanged_bytes(parameters, size as u64, dtype, sharded) * size as u64;
        assert!(sent.abs_diff(planned) <= 8 * size as u64, "{sent} of {planned}");
    }
}
