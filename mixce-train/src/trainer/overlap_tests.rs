//! What ranks do during the last backward pass of a step, and when one of them fails in it.
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mixce_core::objective::MixCe;
use mixce_gpt2::Gpt2Config;
use mixce_kernels::rng::Stream;
use mixce_kernels::{Precision, StoredTensor};
use mixce_lm::{
    Decoder, Forward, Gradients, LanguageModel, ModelConfig, ModelSpec, PackedBatch, Parameters, PassOptions,
};

use super::{StepResult, TrainStep};
use crate::data::Microbatch;
use crate::distributed::{Communicator, ReduceDtype, ThreadRank};
use crate::error::{Error, Result};
use crate::optim::AdamWConfig;

/// Values in a bucket: several in a block, none in the last norm.
const BUCKET: usize = 500;

/// A rank that counts the sums it has made.
#[derive(Debug)]
struct Watched {
    rank: ThreadRank,
    sums: Mutex<usize>,
    changed: Condvar,
}

impl Watched {
    fn new(rank: ThreadRank) -> Arc<Self> {
        Arc::new(Self { rank, sums: Mutex::new(0), changed: Condvar::new() })
    }

    /// Whether a sum is made before the patience of a test ends.
    fn waits_for_a_sum(&self) -> bool {
        let waited =
            self.changed
                .wait_timeout_while(self.sums.lock().unwrap(), Duration::from_secs(20), |sums| *sums == 0);
        !waited.unwrap().1.timed_out()
    }
}

impl Communicator for Watched {
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
        self.rank.all_gather(own)
    }

    fn abort(&self, status: u8) {
        self.rank.abort(status);
    }

    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        self.rank.all_reduce_f32(values, dtype)?;
        *self.sums.lock().unwrap() += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn bucket(&self) -> usize {
        BUCKET
    }
}

/// Told what a backward pass tells; its error is that of the pass.
type Hook = Box<dyn Fn(usize) -> mixce_lm::Result<()> + Send + Sync>;

/// A model whose backward pass has a hook.
struct Hooked {
    model: Box<dyn LanguageModel>,
    hook: Hook,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.model.fmt(f)
    }
}

impl LanguageModel for Hooked {
    fn config(&self) -> &Arc<dyn ModelConfig> {
        self.model.config()
    }

    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    fn lm_head(&self) -> &StoredTensor {
        self.model.lm_head()
    }

    fn hidden_states(&self, batch: &PackedBatch, dropout: Option<Stream>) -> mixce_lm::Result<Tensor> {
        self.model.hidden_states(batch, dropout)
    }

    fn scoring_states(&self, batch: &PackedBatch, precision: Precision) -> mixce_lm::Result<Tensor> {
        self.model.scoring_states(batch, precision)
    }

    fn forward<'a>(
        &'a self,
        batch: &'a PackedBatch,
        options: PassOptions,
    ) -> mixce_lm::Result<Box<dyn Forward + 'a>> {
        Ok(Box::new(HookedForward { forward: self.model.forward(batch, options)?, hook: &self.hook }))
    }

    fn into_decoder(self: Box<Self>, precision: Precision) -> mixce_lm::Result<Box<dyn Decoder>> {
        self.model.into_decoder(precision)
    }
}

struct HookedForward<'a> {
    forward: Box<dyn Forward + 'a>,
    hook: &'a Hook,
}

impl Forward for HookedForward<'_> {
    fn hidden(&self) -> Tensor {
        self.forward.hidden()
    }

    fn backward_with(
        self: Box<Self>,
        dhidden: Tensor,
        gradients: &Gradients,
        complete_from: &mut dyn FnMut(usize),
    ) -> mixce_lm::Result<()> {
        let Self { forward, hook } = *self;
        let mut told = Ok(());
        forward.backward_with(dhidden, gradients, &mut |first| {
            complete_from(first);
            if told.is_ok() {
                told = hook(first);
            }
        })?;
        told
    }
}

/// Two blocks, whose first parameters are [`BLOCKS`].
fn config() -> Gpt2Config {
    let json = r#"{"model_type":"gpt2","vocab_size":23,"n_positions":12,"n_embd":16,"n_layer":2,"n_head":2}"#;
    Gpt2Config::from_json(json).unwrap()
}

const BLOCKS: [usize; 2] = [2, 14];

/// One step of three documents.
fn run(ranks: Arc<dyn Communicator>, hook: Hook, sharded: bool) -> Result<StepResult> {
    let (config, objective) = (config(), Arc::new(MixCe::new(0.5).unwrap()));
    let weights = Parameters::random(&config, 1, &Device::Cpu).unwrap();
    let step = TrainStep::new(&config, weights, objective, AdamWConfig::default(), 1.0)?;
    let step = step.with_ranks(ranks)?;
    let mut step = if sharded { step.with_sharded_optimizer()? } else { step };
    step.model = Box::new(Hooked { model: step.model.detached()?, hook });
    let examples = vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10, 11, 12]];
    step.run(&[Microbatch { examples }], Stream::new(1), 1e-3, &AtomicBool::new(false))
}

fn failure() -> mixce_lm::Error {
    mixce_lm::Error::NothingSaved { layer: 77 }
}

/// A backward pass that goes on only when a sum has been made.
#[test]
fn sums_are_made_during_the_backward_pass() {
    [false, true].into_iter().for_each(sums_are_made_in_time);
}

fn sums_are_made_in_time(sharded: bool) {
    let ranks: Vec<Arc<Watched>> =
        ThreadRank::all(2, Duration::from_secs(60)).into_iter().map(Watched::new).collect();
    thread::scope(|scope| {
        for rank in &ranks {
            let watched = rank.clone();
            let hook = Box::new(move |first| {
                if first == BLOCKS[1] && !watched.waits_for_a_sum() { Err(failure()) } else { Ok(()) }
            });
            scope.spawn(move || run(rank.clone(), hook, sharded).unwrap());
        }
    });
    let parameters = config().spec().parameters as usize;
    for rank in &ranks {
        assert_eq!(*rank.sums.lock().unwrap(), parameters.div_ceil(BUCKET));
    }
}

/// A rank fails while the thread that makes its sums waits for a rank that does not come: it has its own error at once, and its abort ends the
/// others.
#[test]
fn a_failure_in_the_backward_pass_ends_all_ranks() {
    let started = Instant::now();
    let ranks = ThreadRank::all(3, Duration::from_secs(600));
    let (release, is_released) = channel::<()>();
    let is_released = Mutex::new(is_released);
    let hooks: [Hook; 3] = [
        Box::new(|_| Ok(())),
        Box::new(|first| if first == BLOCKS[1] { Err(failure()) } else { Ok(()) }),
        Box::new(move |_| {
            // Closed when the others have ended.
            let _ = is_released.lock().unwrap().recv_timeout(Duration::from_secs(60));
            Ok(())
        }),
    ];
    let mut errors = thread::scope(|scope| {
        let of_rank = |(rank, hook): (ThreadRank, Hook)| {
            scope.spawn(move || {
                let error = run(Watched::new(rank.clone()), hook, false).unwrap_err();
                rank.abort(2);
                error
            })
        };
        let threads: Vec<_> = ranks.into_iter().zip(hooks).map(of_rank).collect();
        let mut threads = threads.into_iter().map(|thread| thread.join().unwrap());
        let mut errors: Vec<Error> = threads.by_ref().take(2).collect();
        assert!(started.elapsed() < Duration::from_secs(30), "{errors:?}");
        drop(release);
        errors.extend(threads);
        errors
    });
    let own = errors.remove(1);
    assert!(matches!(own, Error::Model(mixce_lm::Error::NothingSaved { layer: 77 })), "{own}");
    for other in errors {
        assert!(matches!(other, Error::RankFailed { rank: 1 }), "{other}");
    }
}
