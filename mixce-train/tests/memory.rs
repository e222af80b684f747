//! Memory of a training step: what is allocated after many steps is what was allocated after a few, and what the plan says.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use candle_core::Device;
use mixce_core::objective::MixCe;
use mixce_gpt2::Gpt2Config;
use mixce_kernels::Precision;
use mixce_kernels::rng::Stream;
use mixce_llama::LlamaConfig;
use mixce_lm::memory::PassShape;
use mixce_lm::{ModelConfig, Parameters, PassOptions};
use mixce_train::data::Microbatch;
use mixce_train::distributed::ThreadRank;
use mixce_train::optim::AdamWConfig;
use mixce_train::plan::step_memory;
use mixce_train::trainer::TrainStep;

/// The system's allocator, counting the bytes that are in use and the most that ever were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Counts are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// 200 steps on ragged batches, with the largest batch among the first: afterwards nothing more is in use, and the peak is that of
/// the first round.
#[test]
fn memory_is_flat_over_200_steps() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let gpt2 = Gpt2Config::from_json(
        r#"{"model_type":"gpt2","vocab_size":211,"n_positions":64,"n_embd":32,"n_layer":2,"n_head":2,"resid_pdrop":0.1,
        "embd_pdrop":0.1,"attn_pdrop":0.1,"bos_token_id":210,"eos_token_id":210}"#,
    )
    .unwrap();
    let llama = LlamaConfig::from_json(
        r#"{"model_type":"qwen3","vocab_size":211,"max_position_embeddings":64,"hidden_size":32,"intermediate_size":80,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"attention_dropout":0.1}"#,
    )
    .unwrap();
    let models: [&dyn ModelConfig; 2] = [&gpt2, &llama];
    // Buffers that a thread keeps are its own: on one thread the count does not depend on who picked up what.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (config, precision) in
        models.into_iter().flat_map(|model| [(model, Precision::F32), (model, Precision::Bf16)])
    {
        let parameters = Parameters::random(config, 1, &Device::Cpu).unwrap();
        let objective = Arc::new(MixCe::new(0.5).unwrap());
        let mut step = TrainStep::new(config, parameters, objective, AdamWConfig::default(), 1.0)
            .unwrap()
            .with_options(PassOptions { precision, ..PassOptions::default() });
        let mut run = |index: u64| {
            let lengths = [64, 2 + index % 63, 2 + index * 7 % 63, 64 - index % 10 * (index % 3)];
            let document =
                |(d, n): (usize, u64)| (0..n).map(|t| ((t * t + d as u64 + index) % 211) as u32).collect();
            let microbatch = Microbatch { examples: lengths.into_iter().enumerate().map(document).collect() };
            pool.install(|| {
                step.run(&[microbatch], Stream::new(index), 1e-4, &AtomicBool::new(false)).unwrap();
            });
        };
        let round = |run: &mut dyn FnMut(u64)| {
            (0..50).for_each(run);
            (IN_USE.load(Relaxed), PEAK.load(Relaxed))
        };
        let first = round(&mut run);
        for _ in 0..3 {
            assert_eq!(round(&mut run), first, "bytes in use and at the peak, {precision:?}");
        }
    }
}

/// The peak of training, the making of the model included, is within 10 % of the plan's.
#[test]
fn the_peak_is_the_planned_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let gpt2 = |vocab_size, n_embd, n_layer| -> Arc<dyn ModelConfig> {
        let base = Gpt2Config::gpt2_small();
        Arc::new(Gpt2Config { vocab_size, n_positions: 128, n_embd, n_layer, n_head: 4, ..base })
    };
    let llama = |model_type: &str, hidden_size: usize, layers: usize, kv: usize| -> Arc<dyn ModelConfig> {
        let json = format!(
            r#"{{"model_type":"{model_type}","vocab_size":500,"max_position_embeddings":128,"hidden_size":{hidden_size},
            "intermediate_size":{},"num_hidden_layers":{layers},"num_attention_heads":4,"num_key_value_heads":{kv},
            "head_dim":24,"tie_word_embeddings":true}}"#,
            3 * hidden_size
        );
        Arc::new(LlamaConfig::from_json(&json).unwrap())
    };
    // Many layers, many tokens of the vocabulary, more rows than go through a sublayer at once, and norms of heads.
    let cases = [
        (gpt2(300, 64, 6), vec![128; 6]),
        (gpt2(20_000, 48, 1), vec![128, 30, 77, 128]),
        (gpt2(500, 96, 2), vec![128; 12]),
        (llama("llama", 64, 6, 1), vec![128; 6]),
        (llama("qwen3", 48, 5, 4), vec![128, 30, 77, 128]),
        (llama("mistral", 96, 2, 2), vec![128; 12]),
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for ((config, lengths), recompute) in
        cases.into_iter().flat_map(|case| [(case.clone(), false), (case, true)])
    {
        let microbatch = || {
            let document = |n: &usize| (0..=*n).map(|t| (t * t % config.spec().vocabulary) as u32).collect();
            Microbatch { examples: lengths.iter().map(document).collect() }
        };
        let train = || {
            let parameters = Parameters::random(&*config, 1, &Device::Cpu).unwrap();
            let objective = Arc::new(MixCe::new(0.5).unwrap());
            let mut step = TrainStep::new(&*config, parameters, objective, AdamWConfig::default(), 1.0)
                .unwrap()
                .with_options(PassOptions { recompute, ..PassOptions::default() });
            for index in 0..2 {
                pool.install(|| {
                    step.run(&[microbatch()], Stream::new(index), 1e-4, &AtomicBool::new(false)).unwrap();
                });
            }
        };
        // Threads keep the buffers of their products, which the plan does not count.
        train();
        let before = IN_USE.load(Relaxed);
        PEAK.store(before, Relaxed);
        train();
        let got = (PEAK.load(Relaxed) - before) as f64;
        let (tokens, longest) = (lengths.iter().sum(), lengths.iter().copied().max().unwrap());
        let shape = PassShape { tokens, longest, recompute, on_cuda: false, precision: Precision::F32 };
        let want = step_memory(&*config, shape);
        let ratio = got / want.peak as f64;
        assert!(
            (ratio - 1.0).abs() < 0.1,
            "{ratio} of {want:?}, {}, recompute {recompute}",
            config.describe()
        );
    }
}

/// The moments of two ranks together are those of one process.
#[test]
fn a_sharded_optimizer_has_its_part_of_the_moments() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let config =
        Gpt2Config { vocab_size: 20_000, n_embd: 48, n_layer: 1, n_head: 4, ..Gpt2Config::gpt2_small() };
    let in_use = |sharded: bool| {
        let before = IN_USE.load(Relaxed);
        let step = |rank: ThreadRank| {
            let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
            let objective = Arc::new(MixCe::new(0.5).unwrap());
            let step = TrainStep::new(&config, parameters, objective, AdamWConfig::default(), 1.0).unwrap();
            let step = step.with_ranks(Arc::new(rank)).unwrap();
            if sharded { step.with_sharded_optimizer().unwrap() } else { step }
        };
        let steps: Vec<TrainStep> =
            ThreadRank::all(2, Duration::from_secs(1)).into_iter().map(step).collect();
        (IN_USE.load(Relaxed) - before, steps).0
    };
    let precision = Precision::F32;
    let shape = PassShape { tokens: 64, longest: 64, recompute: false, on_cuda: false, precision };
    let whole = step_memory(&config, shape);
    // The median: threads of the pool that start or end their first work meanwhile have memory of their own.
    let mut saved = [0; 3].map(|_: i64| in_use(false) as i64 - in_use(true) as i64);
    saved.sort_unstable();
    let saved = saved[1] as f64;
    let planned = 2.0 * (whole.moments - whole.sharded(2).moments) as f64;
    assert!((saved / planned - 1.0).abs() < 0.01, "{saved} of {planned}");
}
