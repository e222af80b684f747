//! Several ranks train what one process trains. Ranks are threads here; `scripts/check-mpi.sh` runs processes.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::{Device, Tensor};
use mixce_core::OBJECTIVES;
use mixce_kernels::rng::Stream;
use mixce_lm::{Parameters, PassOptions};
use mixce_train::config::{Every, Selection, TrainConfig};
use mixce_train::data::Examples;
use mixce_train::distributed::{Communicator, ReduceDtype, ThreadRank};
use mixce_train::run_folder::RunFolder;
use mixce_train::selector::Selector;
use mixce_train::trainer::{End, TrainJob, TrainOutcome, train};
use mixce_train::{Error, Result};

use crate::common::{Recorder, Setup, Watch, documents, examples, settings, tensors, values};
use crate::sharded::{assert_same, sharded};

/// 20 steps over ragged documents, with dropout and accumulation.
pub(crate) fn config() -> TrainConfig {
    TrainConfig { max_steps: Some(20), batch_size: 5, dropout: Some(0.2), lr: 1e-3, ..settings() }
}

/// What each rank has: its outcome, and what its observer heard.
pub(crate) type Ranks = Vec<(Result<TrainOutcome>, Recorder)>;

/// What else a run has.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// Rank 0 stops the run after this step.
    pub(crate) stop_after: Option<u64>,
    /// Rank 0's.
    pub(crate) selector: Option<&'a (dyn Selector + Sync)>,
    /// Rank 1's other development set.
    pub(crate) other_valid: Option<&'a Examples>,
    /// Values in a bucket.
    pub(crate) bucket: Option<usize>,
}

/// A rank with buckets of its own size.
#[derive(Debug)]
struct Bucketed(ThreadRank, usize);

impl Communicator for Bucketed {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn timeout(&self) -> Duration {
        self.0.timeout()
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.0.all_gather(own)
    }

    fn abort(&self, status: u8) {
        self.0.abort(status);
    }

    fn bucket(&self) -> usize {
        self.1
    }
}

/// Trains on `size` threads into the folder `name`.
pub(crate) fn train_on(
    size: usize,
    setup: &Setup,
    name: &str,
    config: &TrainConfig,
    extra: &Extra<'_>,
) -> Ranks {
    let run = match config.resume {
        Some(_) => RunFolder::open_or_create(&setup.path(name)).unwrap(),
        None => RunFolder::create(&setup.path(name)).unwrap(),
    };
    // The rest of a setup is not shared between threads.
    let Setup { model, parameters, train: examples, valid, .. } = setup;
    let of_rank = |rank: ThreadRank| {
        let (mut recorder, stop) = (Recorder::default(), AtomicBool::new(false));
        let mut job = TrainJob {
            valid: valid.as_ref(),
            run: Some(&run),
            stop: Some(&stop),
            ranks: match extra.bucket {
                Some(values) => Arc::new(Bucketed(rank.clone(), values)),
                None => Arc::new(rank.clone()),
            },
            ..TrainJob::new(config, model.clone(), examples).unwrap()
        };
        match rank.rank() {
            0 => {
                recorder.stop_after = extra.stop_after;
                job.selector = extra.selector.map(|selector| selector as &dyn Selector);
            }
            1 => job.valid = extra.other_valid.or(job.valid),
            _ => {}
        }
        let mut watch = Watch(&mut recorder, &stop);
        let outcome = train(&job, parameters.clone(), &mut [&mut watch]);
        if outcome.is_err() {
            rank.abort(2);
        }
        (outcome, recorder)
    };
    let ranks = ThreadRank::all(size, Duration::from_secs(60));
    std::thread::scope(|scope| {
        let of_rank = &of_rank;
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || of_rank(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub(crate) fn plainly(size: usize, setup: &Setup, name: &str, config: &TrainConfig) -> Ranks {
    train_on(size, setup, name, config, &Extra::default())
}

/// The bits of all parameters of a rank's model.
pub(crate) fn bits(outcome: &Result<TrainOutcome>) -> Vec<u32> {
    let model = &outcome.as_ref().unwrap().model;
    model.parameters().iter().flat_map(|(_, tensor)| values(tensor)).map(f32::to_bits).collect()
}

/// Losses and norms within 1e-5 of those of one process, all else equal; ranks with the same weights bit for bit, of which only the first reports.
fn assert_follows(alone: &Ranks, ranks: &Ranks, name: &str) {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
    let (one, first) = (&alone[0].1, &ranks[0].1);
    assert_eq!(first.steps.len(), one.steps.len(), "{name}");
    for (a, b) in first.steps.iter().zip(&one.steps) {
        assert_eq!((a.step, a.tokens, a.lr, a.skipped), (b.step, b.tokens, b.lr, b.skipped), "{name}");
        assert!(close(a.loss, b.loss) && close(a.nll, b.nll), "{name}: {a:?} {b:?}");
        assert!(close(a.mean_weight, b.mean_weight), "{name}: {a:?} {b:?}");
        assert!((a.grad_norm - b.grad_norm).abs() <= 1e-4 * b.grad_norm, "{name}: {a:?} {b:?}");
    }
    assert_eq!(first.evaluations.len(), one.evaluations.len(), "{name}");
    for (a, b) in first.evaluations.iter().zip(&one.evaluations) {
        assert_eq!(
            (a.step, a.tokens, a.documents, a.best),
            (b.step, b.tokens, b.documents, b.best),
            "{name}"
        );
        assert!(close(a.valid_nll, b.valid_nll) && close(a.valid_loss, b.valid_loss), "{name}: {a:?} {b:?}");
    }
    let weights = bits(&ranks[0].0);
    for (outcome, recorder) in &ranks[1..] {
        assert!(bits(outcome) == weights, "{name}: the weights of two ranks differ");
        assert!(recorder.steps.is_empty() && recorder.checkpoints.is_empty() && !recorder.done, "{name}");
    }
}

/// The part of a batch has that batch's masks: hidden states of both parts are those of the whole.
#[test]
fn parts_of_a_batch_have_its_dropout_masks() {
    let setup = Setup::new(&documents(4, 1), None);
    let texts = documents(5, 9);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let model = setup.model.build(setup.parameters.clone()).unwrap();
    let options = PassOptions { dropout: Some(Stream::new(7)), ..PassOptions::default() };
    let hidden = |texts: &[&[u32]], first_row| {
        let mut batch = model.pack(texts).unwrap();
        batch.first_row = first_row;
        let fused = model.forward(&batch, options).unwrap().hidden();
        let plain = model.hidden_states(&batch, options.dropout).unwrap();
        [values(&fused), values(&plain)]
    };
    let whole = hidden(&texts, 0);
    for cut in 1..5 {
        let rows = texts[..cut].iter().map(|text| text.len()).sum();
        let (before, after, wrong) =
            (hidden(&texts[..cut], 0), hidden(&texts[cut..], rows), hidden(&texts[cut..], 0));
        for i in 0..2 {
            let parts = [&before[i][..], &after[i][..]].concat();
            let worst = parts.iter().zip(&whole[i]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "cut at {cut}: {worst}");
            assert_ne!(after[i], wrong[i], "the masks depend on the row");
        }
    }
}

#[test]
fn every_objective_follows_one_process_on_2_and_4_ranks() {
    let setup = Setup::new(&documents(43, 1), Some(&documents(9, 2)));
    for objective in OBJECTIVES {
        let config = TrainConfig {
            objective: objective.name.parse().unwrap(),
            eta: None,
            eval_every: Every::Steps(7),
            ..config()
        };
        let alone = plainly(1, &setup, &format!("{}-1", objective.name), &config);
        for size in [2, 4] {
            let name = format!("{}-{size}", objective.name);
            assert_follows(&alone, &plainly(size, &setup, &name, &config), &name);
        }
    }
}

/// More ranks than documents in a microbatch, clipping, weight decay, skipped steps, recomputed activations, and a Llama.
#[test]
fn other_settings_follow_one_process() {
    let setup = Setup::new(&documents(43, 1), None);
    let config = TrainConfig {
        batch_size: 2,
        grad_accum: 3,
        clip_grad_norm: 0.5,
        weight_decay: 0.1,
        skip_outlier_steps: Some(1.2),
        activation_checkpointing: true,
        ..config()
    };
    let alone = plainly(1, &setup, "one", &config);
    assert!(alone[0].1.steps.iter().any(|step| step.skipped), "the test has a step to skip");
    assert_follows(&alone, &plainly(5, &setup, "five", &config), "five");
    let llama = Setup::of(Arc::new(crate::resume::tiny_llama()), &documents(43, 1), None);
    let config = self::config();
    assert_follows(&plainly(1, &llama, "one", &config), &plainly(3, &llama, "three", &config), "llama");
}

/// Losses of rounded gradients within 1e-3, far from those of f32 in their bits; ranks with the same weights bit for bit, with and without shards.
#[test]
fn gradients_in_bf16_follow_those_in_f32() {
    let setup = Setup::new(&documents(43, 1), None);
    for size in [2, 3] {
        let exact = plainly(size, &setup, &format!("{size}"), &config());
        let rounded = TrainConfig { grad_reduce_dtype: ReduceDtype::Bf16, ..config() };
        let whole = plainly(size, &setup, &format!("{size}-bf16"), &rounded);
        let divided = plainly(size, &setup, &format!("{size}-bf16-sharded"), &sharded(&rounded));
        assert_same(&whole, &divided, &format!("{size} ranks"));
        assert!(whole.iter().all(|(outcome, _)| bits(outcome) == bits(&whole[0].0)));
        assert!(bits(&whole[0].0) != bits(&exact[0].0), "gradients are rounded");
        let (got, want) = (&whole[0].1.steps, &exact[0].1.steps);
        assert_eq!((got.len(), want.len()), (20, 20));
        for (a, b) in got.iter().zip(want) {
            assert!((a.loss - b.loss).abs() <= 1e-3 * b.loss, "{a:?} {b:?}");
            assert!((a.grad_norm - b.grad_norm).abs() <= 1e-2 * b.grad_norm, "{a:?} {b:?}");
        }
        assert_eq!(got[0].loss, want[0].loss, "the first forward pass is the same");
        let error = (got[0].grad_norm / want[0].grad_norm - 1.0).abs();
        assert!(error > 1e-8, "{error}");
    }
}

/// The setting is part of the run; one process has nobody to send to.
#[test]
fn a_run_keeps_the_format_of_its_gradients() {
    let setup = Setup::new(&documents(20, 1), None);
    let rounded = TrainConfig { grad_reduce_dtype: ReduceDtype::Bf16, ..config() };
    let extra = Extra { stop_after: Some(5), ..Extra::default() };
    train_on(2, &setup, "run", &rounded, &extra);
    let resumed = |dtype| TrainConfig { grad_reduce_dtype: dtype, resume: Some("auto".into()), ..config() };
    let refused = plainly(2, &setup, "run", &resumed(ReduceDtype::F32)).swap_remove(0).0.unwrap_err();
    assert!(refused.to_string().contains("`grad_reduce_dtype` was \"bf16\" and is unset now"), "{refused}");
    assert_eq!(plainly(2, &setup, "run", &resumed(ReduceDtype::Bf16))[0].0.as_ref().unwrap().steps, 20);
    let alone = plainly(1, &setup, "one", &config());
    assert_same(&alone, &plainly(1, &setup, "one-bf16", &rounded), "one process");
}

/// Stopped on 4 ranks by one of them, continued on 2, against one process without a stop.
#[test]
fn a_run_of_4_ranks_is_continued_on_2() {
    let setup = Setup::new(&documents(43, 1), Some(&documents(9, 2)));
    let config = TrainConfig { eval_every: Every::Steps(5), ..config() };
    let alone = plainly(1, &setup, "alone", &config);
    let stopped = train_on(4, &setup, "ranks", &config, &Extra { stop_after: Some(9), ..Extra::default() });
    for (outcome, _) in &stopped {
        let outcome = outcome.as_ref().unwrap();
        assert_eq!((outcome.end, outcome.steps), (End::Interrupted, 9));
        assert!(outcome.checkpoint.as_ref().unwrap().ends_with("step-00000009"));
    }
    assert_eq!(stopped[0].1.checkpoints, [5, 9], "after the epoch, and once when stopped");
    let resumed = TrainConfig { resume: Some("auto".into()), ..config.clone() };
    let mut continued = plainly(2, &setup, "ranks", &resumed);
    let before = &stopped[0].1;
    let first = &mut continued[0].1;
    first.steps.splice(0..0, before.steps.iter().cloned());
    first.evaluations.splice(0..0, before.evaluations.iter().cloned());
    assert_follows(&alone, &continued, "continued");
    let files = |name: &str| tensors(&setup.path(name).join("final/model.safetensors"));
    assert_eq!(files("ranks").len(), files("alone").len());
}

#[test]
fn a_loss_that_is_not_finite_on_one_rank_ends_all_alike() {
    let mut setup = Setup::new(&documents(20, 1), None);
    // Only the rank whose documents have the token sees it.
    let rare = setup.train.store().document(3)[0] as usize;
    let spoilt = setup.parameters.iter().map(|(name, tensor)| {
        let mut rows = values(tensor);
        if name == "wte.weight" {
            rows[rare * 16] = f32::INFINITY;
        }
        (name.to_owned(), Tensor::from_vec(rows, tensor.shape(), &Device::Cpu).unwrap())
    });
    setup.parameters = Parameters::new(&*setup.model, spoilt.collect::<Vec<_>>()).unwrap();
    let ranks = plainly(3, &setup, "run", &TrainConfig { valid: None, ..config() });
    for (rank, (outcome, _)) in ranks.iter().enumerate() {
        let error = outcome.as_ref().unwrap_err();
        let Error::NonFiniteLoss { step: 1, documents, .. } = error else { panic!("rank {rank}: {error}") };
        assert_eq!(documents.is_some(), rank == 0, "the first saves the documents");
    }
}

#[test]
fn jobs_that_differ_are_refused_on_all_ranks() {
    let setup = Setup::new(&documents(20, 1), None);
    let other: Examples = examples(&documents(20, 2));
    let ranks =
        train_on(2, &setup, "run", &config(), &Extra { other_valid: Some(&other), ..Extra::default() });
    for (outcome, _) in &ranks {
        let error = outcome.as_ref().unwrap_err();
        assert!(matches!(error, Error::RanksDiffer { what: "data", rank: 1 }), "{error}");
    }
    let entries = std::fs::read_dir(setup.path("run")).unwrap().count();
    assert_eq!(entries, 0, "nothing is written");
}

/// Scores with the number of its evaluations; stops the run at the third.
#[derive(Debug, Default)]
struct Counting(std::sync::atomic::AtomicU64);

impl Selector for Counting {
    fn score(&self, _: &dyn mixce_lm::LanguageModel, stop: &AtomicBool) -> Result<f64> {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if count == 3 {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            return Err(Error::Interrupted);
        }
        Ok(count as f64 / 10.0)
    }
}

#[test]
fn rank_0_scores_for_all_and_can_be_stopped_while_it_does() {
    let setup = Setup::new(&documents(20, 1), Some(&documents(9, 2)));
    let config = TrainConfig { select: Selection::Mauve, eval_every: Every::Steps(2), ..config() };
    let selector = Counting::default();
    let ranks = train_on(2, &setup, "run", &config, &Extra { selector: Some(&selector), ..Extra::default() });
    for (outcome, _) in &ranks {
        let outcome = outcome.as_ref().unwrap();
        assert_eq!((outcome.end, outcome.steps), (End::Interrupted, 6));
        assert_eq!(outcome.best.as_ref().unwrap().valid_mauve, Some(0.2));
    }
    let scores: Vec<_> = ranks[0].1.evaluations.iter().map(|e| e.valid_mauve.unwrap()).collect();
    assert_eq!(scores, [0.1, 0.2]);
}

/// A rank that fails by itself, here because its folder is gone, ends the others.
#[test]
fn a_failure_of_one_rank_ends_the_others() {
    struct Deletes<'a>(&'a Path);
    impl mixce_train::observer::TrainObserver for Deletes<'_> {
        fn on_step(&mut self, report: &mixce_train::observer::StepReport) -> Result<()> {
            if report.step == 3 {
                std::fs::remove_dir_all(self.0).unwrap();
            }
            Ok(())
        }
    }
    let setup = Setup::new(&documents(20, 1), None);
    let run = RunFolder::create(&setup.path("run")).unwrap();
    let config = config();
    let Setup { model, parameters, train: examples, .. } = &setup;
    let of_rank = |rank: ThreadRank| {
        let job = TrainJob {
            run: Some(&run),
            ranks: Arc::new(rank.clone()),
            ..TrainJob::new(&config, model.clone(), examples).unwrap()
        };
        let outcome = train(&job, parameters.clone(), &mut [&mut Deletes(run.root())]);
        rank.abort(2);
        outcome.unwrap_err()
    };
    let errors: Vec<Error> = std::thread::scope(|scope| {
        let of_rank = &of_rank;
        let ranks = ThreadRank::all(3, Duration::from_secs(60)).into_iter();
        let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || of_rank(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(matches!(errors[0], Error::RunFolderGone { .. }), "{}", errors[0]);
    for error in &errors[1..] {
        assert!(matches!(error, Error::RankFailed { rank: 0 }), "{error}");
    }
}
