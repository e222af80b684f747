//! The allocator of the program.

#![expect(unsafe_code, reason = "an option of the allocator is set through its C interface")]

/// A training step frees and reallocates the same large tensors every time. The system allocator returns such blocks to the
/// kernel, which must map and zero them again; mimalloc can keep its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Never returns freed memory to the system, unless `MIMALLOC_PURGE_DELAY` is set.
///
/// By default memory is returned if it is not reused within a second, which is less than a training step takes. Where page faults
/// are slow (especially in virtual machines) this cost a fifth of the time.
pub(crate) fn keep_freed_memory() {
    // Position in mimalloc 3's `mi_option_t`, whose numbering its header calls stable.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets an integer option; unknown options are ignored. No effect if the environment sets it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}
