//! With the feature `cuda`: compiles the kernels of `cuda/*.cu` to PTX, which `src/cuda` embeds.
//!
//! Takes `nvcc` from `NVCC`, else from `CUDA_HOME/bin`, else from the PATH, and compiles for the compute capability
//! `CUDA_COMPUTE_CAP` (80 unless set): PTX, which drivers translate for their own GPU and all newer ones.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(error) = compile_kernels()
    {
        println!("cargo::error={error}");
    }
}

fn compile_kernels() -> Result<(), String> {
    println!("cargo::rerun-if-changed=cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let queue = Mutex::new(sources()?);
    let next = || queue.lock().ok()?.pop();
    let work = || {
        while let Some(source) = next() {
            compile(&source, &out, &capability)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let in_folder = |error: std::io::Error| format!("`mixce-kernels/cuda`: {error}");
    let files = std::fs::read_dir("cuda").map_err(in_folder)?;
    let paths = files.map(|file| Ok(file.map_err(in_folder)?.path())).collect::<Result<Vec<_>, String>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "cu")).collect())
}

fn compile(source: &Path, out: &Path, capability: &str) -> Result<(), String> {
    let name = source.file_name().unwrap_or_default();
    let ptx = out.join(name).with_extension("ptx");
    let nvcc = nvcc();
    let status = Command::new(&nvcc)
        .args(["-ptx", "-O3", "-std=c++17"])
        .arg(format!("-arch=compute_{capability}"))
        .arg(source)
        .arg("-o")
        .arg(&ptx)
        .status()
        .map_err(|error| {
            format!(
                "cannot run `{}`: {error}; hint: install the CUDA toolkit, or set NVCC or CUDA_HOME",
                nvcc.display()
            )
        })?;
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "`{}` failed on `{}` for compute capability `{capability}` ({status})",
            nvcc.display(),
            source.display()
        )),
    }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    let of_toolkit = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    of_toolkit.filter(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}
