//! The allocator of the program.

#![expect(unsafe_code, reason = "an option of the allocator is set through its C interface")]

/// The large tensors of a training step are freed and asked for again at every step. The system's allocator gives such
/// blocks back each time, and the kernel maps and zeroes them anew; this one can keep its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Never gives freed memory back to the system, unless `MIMALLOC_PURGE_DELAY` says when.
///
/// The default is to give back what was not asked for again within a second, which is less than a training step takes. Where
/// touching new memory is slow (virtual machines above all) a fifth of the time went there.
pub(crate) fn keep_freed_memory() {
    // Position in mimalloc 3's `mi_option_t`, whose numbering its header calls stable.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets an integer option; a number that is no option is ignored. Without effect where the environment set it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}
