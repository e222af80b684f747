//! The memory of the host while weights are loaded.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use candle_core::Device;
use mixce_gpt2::Gpt2Config;
use mixce_train::config::{Every, TrainConfig};

use crate::common::{Recorder, Setup, documents, settings};

thread_local! {
    /// Bytes that this thread has allocated beyond those that it has freed, and the most of them.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator. Memory of the emulated device comes from elsewhere.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(bytes: isize) {
    // A thread that ends has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// The result, and the most memory that this thread held meanwhile beside what it held before.
fn with_peak<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let result = f();
    (result, (HELD.with(Cell::get).1 - before) as usize)
}

/// What is read of a file at once, and small things.
const SLACK_BYTES: usize = 2 << 20;

#[test]
fn weights_are_loaded_tensor_by_tensor() {
    let json = r#"{"model_type":"gpt2","vocab_size":2000,"n_positions":16,"n_embd":256,"n_layer":4,"n_head":4,
        "bos_token_id":22,"eos_token_id":22}"#;
    let setup = Setup::of(Arc::new(Gpt2Config::from_json(json).unwrap()), &documents(6, 1), None);
    let config = TrainConfig { max_steps: Some(1), save_every: Every::Steps(1), ..settings() };
    let outcome = setup.train("run", &config, &mut Recorder::default()).unwrap();
    let sizes = setup.parameters.iter().map(|(_, tensor)| 4 * tensor.elem_count());
    let (all, largest) = sizes.fold((0, 0), |(all, largest), bytes| (all + bytes, bytes.max(largest)));
    assert!(all > 3 * (largest + SLACK_BYTES), "{all} bytes, the largest tensor {largest}");

    let (model, device) = (outcome.final_model.unwrap(), mixce_kernels::cuda_device(0).unwrap());
    let load = |device: &Device| mixce_lm::checkpoint::load(&model, &[&mixce_gpt2::FAMILY], device).unwrap();
    let (loaded, peak) = with_peak(|| load(&device));
    assert_eq!(4 * loaded.parameters.element_count(), all);
    assert!(peak < largest + SLACK_BYTES, "to a GPU: {peak} bytes, the largest tensor has {largest}");
    let (_, peak) = with_peak(|| load(&Device::Cpu));
    assert!((all..all + largest + SLACK_BYTES).contains(&peak), "to the CPU: {peak} bytes of {all}");

    // With two moments for each parameter.
    let checkpoint = setup.path("run").join("checkpoints/step-00000001");
    let (_, peak) = with_peak(|| mixce_train::checkpoint::load(&checkpoint).unwrap());
    assert!((3 * all..3 * all + largest + SLACK_BYTES).contains(&peak), "to resume: {peak} bytes of {all}");
}
