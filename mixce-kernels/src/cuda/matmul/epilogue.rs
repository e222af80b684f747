//! Products in bf16 that add a bias, or apply GELU to the sum with it, before they store their result: by cublasLt.
//!
//! An algorithm is chosen once for a problem: its sizes, layouts, epilogue and alignments. These follow from the shapes of a model, since memory is
//! allocated at multiples of 256 bytes, so equal runs have equal algorithms and bits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::cublaslt::result::CublasError;
use candle_core::cuda::cudarc::cublaslt::sys::cublasStatus_t;
use candle_core::cuda::cudarc::driver::result::malloc_sync;
use candle_core::{DType, Error, Result, bail};

use super::lt::{Addresses, Handle, Kind, Operand, Plan, Problem, WORKSPACE_BYTES, alignment};
use super::{Array, Element, Gpu, Matrix};

/// Elements of bf16 in 16 bytes, the alignment that cublasLt demands of a bias and of the rows of a pre-activation, and its fast algorithms of all
/// matrices.
const PACK: usize = 8;

/// Problems that are remembered: ragged batches have many lengths. What is forgotten is chosen again, as before.
const MOST_PLANS: usize = 4096;

/// What a product `y = a b` does with its sums before it stores them.
#[derive(Clone, Copy)]
pub(in crate::cuda) enum Epilogue<'a, T> {
    /// `y = a b + bias`
    Bias(Array<'a, T>),
    /// `y = gelu(a b + bias)` with the hyperbolic tangent; `a b + bias` goes to `pre_activation` if it is wanted.
    Gelu { bias: Array<'a, T>, pre_activation: Option<Array<'a, T>> },
}

impl<'a, T: Copy> Epilogue<'a, T> {
    /// The bias, and the pre-activation if it is wanted.
    fn arrays(self) -> (Array<'a, T>, Option<Array<'a, T>>) {
        match self {
            Self::Bias(bias) => (bias, None),
            Self::Gelu { bias, pre_activation } => (bias, pre_activation),
        }
    }
}

/// cublasLt on a device.
struct Library {
    handle: Handle,
    /// Whether GELU in an epilogue is faster than in a kernel of its own.
    gelu: bool,
    /// All work is on one stream, so products may share it.
    workspace: Option<u64>,
    /// Nothing where cublasLt has no algorithm.
    plans: HashMap<Problem, Option<Plan>>,
}

/// By the number of the device; nothing where cublasLt could not be opened.
static LIBRARIES: Mutex<Vec<(usize, Option<Library>)>> = Mutex::new(Vec::new());

impl Gpu<'_> {
    /// Launches `y = a b` with an epilogue; false, and nothing is launched, where cublasLt has no algorithm that is worth it: then the caller takes other
    /// kernels, with the same result up to rounding.
    ///
    /// # Errors
    /// If sizes do not match or the device fails.
    pub(in crate::cuda) fn matmul_with<T: Element>(
        &self,
        y: Matrix<'_, T>,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
        epilogue: Epilogue<'_, T>,
    ) -> Result<bool> {
        let (bias, saved) = epilogue.arrays();
        let (m, n, k) = (a.rows, b.columns, a.columns);
        let saved = saved.map_or(m * n, |array| array.len);
        if k != b.rows
            || (y.rows, y.columns, y.transposed) != (m, n, false)
            || (bias.len, saved) != (n, m * n)
        {
            bail!(
                "matmul: [{m}, {k}] times [{}, {n}] into [{}, {}], with a bias of {} and {saved} inputs of GELU",
                b.rows,
                y.rows,
                y.columns,
                bias.len
            );
        }
        match problem(y, a, b, epilogue) {
            Some((problem, addresses)) => self.launch_with_epilogue(problem, &addresses),
            None => Ok(false),
        }
    }

    /// The kinds of epilogues that products in bf16 have on this device.
    pub(in crate::cuda) fn epilogues(&self) -> Result<Vec<&'static str>> {
        if self.check_bf16().is_err() {
            return Ok(Vec::new());
        }
        // Some sizes and addresses, from which nothing is read.
        const SIZE: usize = 128;
        const ADDRESS: u64 = 256;
        let matrix = Operand {
            rows: SIZE,
            columns: SIZE,
            stride: SIZE,
            transposed: false,
            alignment: alignment(ADDRESS),
        };
        let alignments = [alignment(ADDRESS); 2];
        let [a, b, y, bias] = [ADDRESS; 4];
        let addresses = Addresses { a, b, y, bias, pre_activation: Some(ADDRESS) };
        self.with_library(|library| {
            let has = |kind| {
                let problem = Problem { kind, a: matrix, b: matrix, y: matrix, alignments };
                (kind == Kind::Bias || library.gelu)
                    && Plan::find(&library.handle, &problem, &addresses).is_ok()
            };
            let kinds = [("bias", Kind::Bias), ("gelu", Kind::GeluSaving)];
            Ok(kinds.into_iter().filter(|(_, kind)| has(*kind)).map(|(name, _)| name).collect())
        })
        .map(Option::unwrap_or_default)
    }

    fn launch_with_epilogue(&self, problem: Problem, addresses: &Addresses) -> Result<bool> {
        let stream = self.0.cuda_stream();
        let launched = self.with_library(|library| {
            if problem.kind != Kind::Bias && !library.gelu {
                return Ok(false);
            }
            if library.plans.len() >= MOST_PLANS {
                library.plans.clear();
            }
            let plan = match library.plans.entry(problem) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let found = Plan::find(&library.handle, &problem, addresses);
                    new.insert(found.map_err(|error| report(&problem, error)).ok())
                }
            };
            let Some(found) = plan.as_mut() else { return Ok(false) };
            let workspace = match library.workspace {
                Some(workspace) => workspace,
                // SAFETY: only products of this module read it, after they have written it.
                None => *library.workspace.insert(unsafe { malloc_sync(WORKSPACE_BYTES) }.w()?),
            };
            // SAFETY: the sizes fit the arrays, whose storages are borrowed (`matmul_with`), and the alignments are those of their addresses.
            match unsafe { found.launch(&library.handle, addresses, workspace, stream.cu_stream().cast()) } {
                Ok(()) => Ok(true),
                Err(error) if is_refusal(error) => {
                    report(&problem, error);
                    *plan = None;
                    Ok(false)
                }
                Err(error) => Err(Error::msg(format!("cublasLt: {error}"))),
            }
        })?;
        Ok(launched.unwrap_or(false))
    }

    /// Runs `f` with the library of this device; `None` where it could not be opened.
    fn with_library<R>(&self, f: impl FnOnce(&mut Library) -> Result<R>) -> Result<Option<R>> {
        let stream = self.0.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().w()?;
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let ordinal = context.ordinal();
        let at = match libraries.iter().position(|(number, _)| *number == ordinal) {
            Some(at) => at,
            None => {
                libraries.push((ordinal, open(context.compute_capability().w()?)));
                libraries.len() - 1
            }
        };
        match &mut libraries[at].1 {
            Some(library) => f(library).map(Some),
            None => Ok(None),
        }
    }
}

/// The library on the device of the current context, whose compute capability this is.
fn open((major, _): (i32, i32)) -> Option<Library> {
    let handle = Handle::new()
        .map_err(|error| tracing::debug!("cublasLt cannot be used ({error}): products have no epilogues"))
        .ok()?;
    // Elsewhere cublasLt stores the sums, and applies GELU in a kernel of its own that is slower than ours.
    let gelu = matches!(major, 9 | 10);
    Some(Library { handle, gelu, workspace: None, plans: HashMap::new() })
}

fn report(problem: &Problem, error: CublasError) {
    tracing::debug!(
        "cublasLt has no algorithm ({error}), so that other kernels follow the product: {problem:?}"
    );
}

/// Whether the library cannot do it, as opposed to a failure of the device.
fn is_refusal(CublasError(status): CublasError) -> bool {
    matches!(
        status,
        cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
            | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE
            | cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH
    )
}

/// What cublasLt is asked for; `None` where sizes, types or addresses are not what its fast algorithms take.
fn problem<T: Element>(
    y: Matrix<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Option<(Problem, Addresses)> {
    let (bias, pre_activation) = epilogue.arrays();
    let (bias, pre_activation) = (bias.address, pre_activation.map(|array| array.address));
    let addresses = Addresses { a: a.address, b: b.address, y: y.address, bias, pre_activation };
    let kind = match (epilogue, pre_activation) {
        (Epilogue::Bias(_), _) => Kind::Bias,
        (_, Some(_)) => Kind::GeluSaving,
        (_, None) => Kind::Gelu,
    };
    let all = [addresses.a, addresses.b, addresses.y, bias, pre_activation.unwrap_or(0)];
    let operands = [a, b, y].map(stored);
    let limit = i32::MAX as usize;
    let fits = |matrix: &Operand| {
        let Operand { rows, columns, stride, .. } = *matrix;
        [rows, columns, stride].iter().all(|length| (1..=limit).contains(length))
            && stride.is_multiple_of(PACK)
    };
    let fits = T::DTYPE == DType::BF16
        && all.iter().all(|address| address.is_multiple_of(16))
        && operands.iter().all(fits)
        && [b.columns, a.columns].iter().all(|length| length.is_multiple_of(PACK));
    let [a, b, y] = operands;
    let alignments = [bias, pre_activation.unwrap_or(0)].map(alignment);
    fits.then_some((Problem { kind, a, b, y, alignments }, addresses))
}

/// A matrix as it is stored.
fn stored<T>(matrix: Matrix<'_, T>) -> Operand {
    let (rows, columns) = match matrix.transposed {
        true => (matrix.columns, matrix.rows),
        false => (matrix.rows, matrix.columns),
    };
    let (stride, transposed) = (matrix.stride, matrix.transposed);
    Operand { rows, columns, stride, transposed, alignment: alignment(matrix.address) }
}
