//! The allocator of the program.

#![expect(unsafe_code, reason = "an option of the allocator is set through its C interface")]

/// A training step frees and reallocates the same large tensors every time. The system allocator returns such blocks to the
/// kernel, which must map and zero them again; mimalloc can keep its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Position in mimalloc 3's `mi_option_t`, whose numbering its header calls stable.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Never returns freed memory to the system, unless `MIMALLOC_PURGE_DELAY` is set.
///
/// By default memory is returned if it is not reused within a second, which is less than a training step takes. Where page faults
/// are slow (especially in virtual machines) this cost a fifth of the time.
pub(crate) fn keep_freed_memory() {
    // SAFETY: sets an integer option; unknown options are ignored. No effect if the environment sets it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_that_keeps_memory_takes_effect() {
        // SAFETY: reads an integer option.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1000, "the default, in milliseconds: it is this option");
        keep_freed_memory();
        assert_eq!(delay(), -1);
    }
}
