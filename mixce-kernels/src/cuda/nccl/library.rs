//! The machine's NCCL library, loaded when it is first needed: a program built for it starts without it.
//!
//! These are the few functions that this crate calls, all of NCCL 2.14 or earlier; numbers are those of `nccl.h`.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use candle_core::{Result, bail};
use libloading::Library;

/// A communicator.
pub(super) type Handle = *mut c_void;

/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;
/// `ncclInProgress`.
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclFloat32`.
pub(super) const FLOAT32: c_int = 7;
/// `ncclBfloat16`.
pub(super) const BFLOAT16: c_int = 9;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// The first version with communicators that do not block.
const OLDEST: c_int = 21_400;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclConfig_t` as of NCCL 2.14; later versions fill in what they have added.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// Nothing in 2.14; undefined (`INT_MIN`) in later versions.
    rest: c_int,
}

impl Config {
    /// Calls return at once.
    pub(super) fn without_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST.unsigned_abs(),
            blocking: 0,
            rest: c_int::MIN,
        }
    }
}

/// The functions of the library by their C declarations.
macro_rules! functions {
    ($($field:ident = $name:ident($($parameter:ty),*) -> $result:ty;)*) => {
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($parameter),*) -> $result,)*
            /// Stays loaded as long as its functions can be called.
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> std::result::Result<Self, libloading::Error> {
                $(
                    // SAFETY: the type is that of the function's declaration in `nccl.h`.
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($parameter),*) -> $result>(stringify!($name))
                    }?;
                )*
                Ok(Self { $($field,)* _library: library })
            }
        }
    };
}

functions! {
    get_version = ncclGetVersion(*mut c_int) -> c_int;
    get_unique_id = ncclGetUniqueId(*mut UniqueId) -> c_int;
    init = ncclCommInitRankConfig(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int;
    async_error = ncclCommGetAsyncError(Handle, *mut c_int) -> c_int;
    abort = ncclCommAbort(Handle) -> c_int;
    group_start = ncclGroupStart() -> c_int;
    group_end = ncclGroupEnd() -> c_int;
    all_reduce = ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int;
    error_text = ncclGetErrorString(c_int) -> *const c_char;
    last_error = ncclGetLastError(Handle) -> *const c_char;
}

impl Functions {
    /// Whether a call has succeeded or goes on.
    ///
    /// # Errors
    /// When it has failed.
    pub(super) fn check(&self, what: &str, result: c_int, handle: Handle) -> Result<()> {
        if result == SUCCESS || result == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: the library has a text for every number, and one for a communicator or for null; neither is ever freed.
        let [error, last] = unsafe { [(self.error_text)(result), (self.last_error)(handle)] }.map(|text| {
            match text.is_null() {
                true => String::new(),
                // SAFETY: a C string that is not null.
                false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned(),
            }
        });
        match last.is_empty() {
            true => bail!("NCCL: {what}: {error}"),
            false => bail!("NCCL: {what}: {error}: {last}"),
        }
    }
}

/// The library; the first call loads it.
///
/// # Errors
/// When the machine has none, or one that is too old.
pub(super) fn library() -> Result<&'static Functions> {
    static LOADED: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    match LOADED.get_or_init(load) {
        Ok(functions) => Ok(functions),
        Err(problem) => bail!("{problem}"),
    }
}

/// What the linker says.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn load() -> std::result::Result<Functions, String> {
    // SAFETY: NCCL's library has no initializers that need anything of this program.
    let open = |name| unsafe { Library::new(name) };
    let opened = open("libnccl.so.2").or_else(|first| open("libnccl.so").map_err(|_| first));
    let library = opened.map_err(|error| format!("cannot load NCCL: {}", reason(&error)))?;
    let old = |what: &str| format!("expected NCCL 2.14 or later, got {what}");
    let functions = Functions::of(library)
        .map_err(|error| old(&format!("one without a function: {}", reason(&error))))?;
    match functions.version() {
        OLDEST.. => Ok(functions),
        version => Err(old(&in_words(version))),
    }
}

impl Functions {
    /// As `nccl.h` counts.
    pub(super) fn version(&self) -> c_int {
        let mut version = 0;
        // SAFETY: it writes one number.
        let result = unsafe { (self.get_version)(&raw mut version) };
        if result == SUCCESS { version } else { 0 }
    }
}

/// `2.27.3`, of the number of a version from 2.9 on.
pub(super) fn in_words(version: c_int) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}
