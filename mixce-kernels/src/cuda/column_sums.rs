//! Sums of columns, in two stages: shares of chunks of rows, so that all multiprocessors take part, then the sum of the shares, of
//! many matrices in a launch.

use std::cell::RefCell;

use candle_core::cuda::cudarc::driver::DeviceRepr;
use candle_core::{Error, Result, Tensor, bail};

use super::grid::Chunks;
use super::matmul::Matrix;
use super::{Array, Element, Gpu, Grid, WARP, kernel, launch, name_of, unsigned, with_arrays};

/// Threads of a block of the second stage, as in `cuda/linear.cu`.
const CHUNKS: u32 = 16;

/// Sums of a launch, as in `cuda/linear.cu`.
const SUMS: usize = 16;

impl Gpu<'_> {
    /// `sums += sum_rows x`
    pub(super) fn add_column_sums<T: Element>(&self, x: Matrix<'_, T>, sums: Array<'_, f32>) -> Result<()> {
        let (op, n, c) = ("column sums", x.rows(), x.columns());
        let columns = unsigned(op, c)?;
        let (x, stride) = x.address_and_stride();
        self.with_shares((n, c, T::PACK), Some(sums), |chunks, partial| {
            let (name, rows) = (name_of!("mixce_column_sums", T), chunks.rows());
            // SAFETY: the arguments are those of the kernel; x has n rows of c elements, and every chunk has its shares.
            unsafe {
                launch!(self, "linear", name, chunks.grid(), x, stride, partial, n as u64, columns, rows)
            }
        })
    }

    /// Runs a kernel over the chunks of a matrix `[n, c]`, in packs of `pack`; adds to the sums, if there are any, the shares that it writes.
    pub(super) fn with_shares(
        &self,
        (n, c, pack): (usize, usize, usize),
        sums: Option<Array<'_, f32>>,
        kernel: impl FnOnce(Chunks, Option<Array<'_, f32>>) -> Result<()>,
    ) -> Result<()> {
        let chunks = Chunks::new(n, c, pack);
        match sums {
            Some(_) if n > 0 => {
                self.add_shares(chunks.count, c, [sums], |partial| kernel(chunks, Some(partial)))
            }
            _ => kernel(chunks, None),
        }
    }

    /// Adds to the sums, of `c` columns each, what `shares` writes for each chunk: `[chunks, K, c]`.
    pub(super) fn add_shares<const K: usize>(
        &self,
        chunks: usize,
        c: usize,
        sums: [Option<Array<'_, f32>>; K],
        shares: impl FnOnce(Array<'_, f32>) -> Result<()>,
    ) -> Result<()> {
        let op = "column sums";
        for sums in sums.iter().flatten() {
            if sums.len != c {
                bail!("{op}: expected {c} sums, got {}", sums.len);
            }
        }
        let partial = self.buffer(chunks * K * c)?;
        let begin = with_arrays::<f32, _, 0, 1>(op, [], [&partial], |_, [], [array]| {
            shares(array)?;
            Ok(array.address)
        })?;
        let mut all = Vec::with_capacity(K);
        for (k, sums) in sums.into_iter().enumerate() {
            let Some(sums) = sums else { continue };
            let columns = unsigned(op, c)?;
            all.push(ShareSum {
                from: begin + (k * c * size_of::<f32>()) as u64,
                to: sums.address,
                chunks: unsigned(op, chunks)?,
                stride: unsigned(op, K * c)?,
                columns,
                tensors: sums.tensor.map(|tensor| [partial.clone(), tensor.clone()]),
            });
        }
        // What is not known to stay in memory is added at once.
        let (kept, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|sum| sum.tensors.is_some());
        self.finish(&others)?;
        let now = WAITING.with_borrow_mut(|waiting| match waiting {
            Some(waiting) => {
                waiting.extend(kept);
                Vec::new()
            }
            None => kept,
        });
        self.finish(&now)
    }

    /// The second stage of these sums.
    fn finish(&self, sums: &[ShareSum]) -> Result<()> {
        sums.chunks(SUMS).try_for_each(|some| {
            let table = ShareSums::new(some);
            let grid =
                Grid { blocks: (table.first_block[SUMS], 1), threads: (WARP, CHUNKS), shared_bytes: 0 };
            // SAFETY: the argument is that of the kernel; the shares were written for these chunks, and their memory and that of the
            // sums is held by `sums`, or borrowed by the caller.
            unsafe { self.launch_for(kernel!("linear", "mixce_add_partial_sums"), grid, &table, &[]) }
        })
    }
}

/// A sum of shares that has not been launched.
struct ShareSum {
    /// Addresses of the first share and of the sums.
    from: u64,
    to: u64,
    chunks: u32,
    /// Elements from one share to the next.
    stride: u32,
    columns: u32,
    /// What holds the memory of both.
    tensors: Option<[Tensor; 2]>,
}

/// `ShareSums` of `cuda/linear.cu`.
#[repr(C)]
struct ShareSums {
    partial: [u64; SUMS],
    sums: [u64; SUMS],
    chunks: [u32; SUMS],
    stride: [u32; SUMS],
    columns: [u32; SUMS],
    first_block: [u32; SUMS + 1],
}

// SAFETY: numbers in the layout of C, which is the kernel's own; the padding at the end is not read.
unsafe impl DeviceRepr for ShareSums {}

impl ShareSums {
    /// Up to `SUMS` sums.
    fn new(sums: &[ShareSum]) -> Self {
        let mut table = Self {
            partial: [0; SUMS],
            sums: [0; SUMS],
            chunks: [0; SUMS],
            stride: [0; SUMS],
            columns: [0; SUMS],
            first_block: [0; SUMS + 1],
        };
        let mut end = 0;
        for (i, sum) in sums.iter().enumerate() {
            (table.partial[i], table.sums[i]) = (sum.from, sum.to);
            (table.chunks[i], table.stride[i], table.columns[i]) = (sum.chunks, sum.stride, sum.columns);
            end += sum.columns.div_ceil(WARP);
            table.first_block[i + 1..].fill(end);
        }
        table
    }
}

thread_local! {
    /// Sums whose shares were written, inside [`finish_sums_together`].
    static WAITING: RefCell<Option<Vec<ShareSum>>> = const { RefCell::new(None) };
}

/// Forgets the sums of a pass that failed.
struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        WAITING.set(None);
    }
}

/// See [`crate::sublayer::finish_sums_together`].
pub(crate) fn finish_sums_together<R, E: From<Error>>(
    pass: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<R, E> {
    if WAITING.with_borrow(Option::is_some) {
        return pass();
    }
    WAITING.set(Some(Vec::new()));
    let forget = Forget;
    let result = pass()?;
    let sums = WAITING.take().unwrap_or_default();
    drop(forget);
    let device = sums.first().and_then(|sum| sum.tensors.as_ref()).map(|[partial, _]| partial.device());
    if let Some(gpu) = device.and_then(Gpu::of) {
        gpu.finish(&sums)?;
    }
    Ok(result)
}
