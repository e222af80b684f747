//! Version and features of this build.

/// The features this build was compiled with, `cpu` when there are none.
pub(crate) fn features() -> Vec<&'static str> {
    let mut features = vec!["cpu"];
    if cfg!(feature = "cuda") {
        features.push("cuda");
    }
    if cfg!(feature = "mpi") {
        features.push("mpi");
    }
    if cfg!(feature = "nccl") {
        features.push("nccl");
    }
    features
}

/// The text of `mixce --version` after the program's name.
pub(crate) fn text() -> String {
    format!("{} (features: {})", env!("CARGO_PKG_VERSION"), features().join(", "))
}
