//! Token and position embeddings: gather forward, scatter-add backward.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor, bail,
};

use crate::cpu::{self, with_slices_mut};
use crate::cuda;
use crate::device::{gpu_of, has_backward_kernels};
use crate::dropout::{Dropout, drop_rows, drop_rows_slow};
use crate::residual::active;
use crate::upload::upload;
use crate::{CuSeqlens, Positions};

/// `x_t = dropout(tokens[input_ids_t] + positions[position_ids_t])`: two tables `[V, C]` and `[T, C]`, result `[N, C]`; the mask is
/// that of [`crate::dropout`].
///
/// Fused for f32, with a backward pass that accumulates the gradients of repeated rows; other dtypes and devices use
/// [`embedding_sum_slow`].
///
/// # Errors
/// When shapes do not fit, an id is outside its table, or the dropout probability is outside `[0, 1)`.
pub fn embedding_sum(
    tokens: &Tensor,
    positions: &Tensor,
    at: &Embedded,
    drop: Option<Dropout>,
) -> Result<Tensor> {
    let drop = active(drop)?;
    if [tokens, positions].into_iter().all(|table| gpu_of(table).is_some()) {
        let op = EmbeddingSum { at: at.clone(), dropout: drop };
        return tokens.contiguous()?.apply_op2(&positions.contiguous()?, op);
    }
    if ![tokens, positions].into_iter().all(cpu::is_cpu_f32) {
        return embedding_sum_slow(tokens, positions, at, drop);
    }
    let op = EmbeddingSum { at: at.clone(), dropout: None };
    let x = tokens.contiguous()?.apply_op2(&positions.contiguous()?, op)?;
    match drop {
        Some(dropout) => drop_rows(&x, dropout),
        None => Ok(x),
    }
}

/// [`embedding_sum`] in plain candle operations.
///
/// # Errors
/// As [`embedding_sum`].
pub fn embedding_sum_slow(
    tokens: &Tensor,
    positions: &Tensor,
    at: &Embedded,
    drop: Option<Dropout>,
) -> Result<Tensor> {
    let x = (tokens.index_select(&at.input_ids, 0)? + positions.index_select(&at.position_ids, 0)?)?;
    match drop {
        Some(dropout) => drop_rows_slow(&x, dropout),
        None => Ok(x),
    }
}

/// The backward pass of [`embedding_sum`]: adds the rows of `dropout(dx)` `[N, C]` to `dtokens` and `dpositions` in
/// place.
///
/// # Errors
/// When shapes do not fit, an id is outside its table, the dropout probability is outside `[0, 1)`, or a tensor is not f32 on the
/// CPU or a CUDA device.
pub fn embedding_backward(
    at: &Embedded,
    dx: &Tensor,
    drop: Option<Dropout>,
    dtokens: &Tensor,
    dpositions: &Tensor,
) -> Result<()> {
    let (c, drop) = (at.channels(dtokens.dims(), dpositions.dims())?, active(drop)?);
    let rows = &at.rows;
    if dx.dims() != [rows.len(), c] {
        bail!("embedding: expected a gradient [{}, {c}], got {:?}", rows.len(), dx.dims());
    }
    at.check(dtokens.dim(0)?, dpositions.dim(0)?)?;
    let op = "embedding backward";
    if let Some(gpu) = gpu_of(dx) {
        let positions = (at.position_groups()?, dpositions);
        return gpu.embedding_backward(dx, (at.token_groups()?, dtokens), Some(positions), drop);
    }
    let dx = match drop {
        Some(dropout) => drop_rows(dx, dropout)?,
        None => dx.clone(),
    };
    cpu::with_slices(op, [&dx], |[dx]| {
        with_slices_mut(op, [dtokens, dpositions], |[dtokens, dpositions]| {
            scatter_add(rows, dx, c, dtokens, dpositions);
        })
    })?
}

/// `x_t = tokens[input_ids_t]`: a table `[V, C]`, result `[N, C]`, for models without a table of positions. Differentiable, fused for
/// f32.
///
/// # Errors
/// When the table is not a matrix or an id is outside of it.
pub fn token_embedding(tokens: &Tensor, at: &Embedded) -> Result<Tensor> {
    at.check(tokens.dims2()?.0, usize::MAX)?;
    match has_backward_kernels(tokens) {
        true => tokens.contiguous()?.apply_op1(TokenEmbedding { at: at.clone() }),
        false => tokens.index_select(&at.input_ids, 0),
    }
}

/// The backward pass of [`token_embedding`] by itself: adds the rows of `dx` `[N, C]` to `dtokens` in place.
///
/// # Errors
/// When shapes do not fit, an id is outside of the table, or a tensor is not f32 on the CPU or a CUDA device.
pub fn token_embedding_backward(at: &Embedded, dx: &Tensor, dtokens: &Tensor) -> Result<()> {
    let (vocabulary, c) = dtokens.dims2()?;
    if dx.dims() != [at.rows.len(), c] {
        bail!("embedding: expected a gradient [{}, {c}], got {:?}", at.rows.len(), dx.dims());
    }
    at.check(vocabulary, usize::MAX)?;
    if let Some(gpu) = gpu_of(dx) {
        return gpu.embedding_backward(dx, (at.token_groups()?, dtokens), None, None);
    }
    let op = "embedding backward";
    cpu::with_slices(op, [dx], |[dx]| {
        with_slices_mut(op, [dtokens], |[dtokens]| {
            for ((token, _), dx) in at.rows.iter().zip(dx.chunks(c.max(1))) {
                add_to_row(dtokens, *token, dx);
            }
        })
    })?
}

/// The rows of the two tables for each token.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// `(token, position)` of every row, on the host, where they can be checked without synchronising the device.
    rows: Arc<[(u32, u32)]>,
    /// The same, `[N]` u32 each, on the device.
    pub(crate) input_ids: Tensor,
    pub(crate) position_ids: Tensor,
    /// The rows grouped by token and by position, each computed by the first backward pass on CUDA that needs it.
    groups: Arc<[OnceLock<RowGroups>; 2]>,
}

/// The rows of a batch sorted by table row, so that one thread block accumulates all gradients of one table row: group `g` is
/// `order[offsets[g]..offsets[g + 1]]`, in ascending order.
#[derive(Debug)]
struct RowGroups {
    /// The row of the table that each row of the batch takes.
    ids: Tensor,
    order: Tensor,
    offsets: Tensor,
}

impl RowGroups {
    /// Groups the rows `0..` by their id; `ids` are the same on the device.
    fn new(of_rows: impl Iterator<Item = u32>, ids: &Tensor) -> Result<Self> {
        let mut group_of = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (row, id) in (0u32..).zip(of_rows) {
            let group = *group_of.entry(id).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(row);
        }
        let mut offsets = vec![0u32];
        for group in &groups {
            offsets.push(offsets[offsets.len() - 1] + group.len() as u32);
        }
        let (n, groups) = (groups.iter().map(Vec::len).sum::<usize>(), [groups.concat(), offsets].concat());
        let on_device = upload(&groups, groups.len(), ids.device())?;
        Ok(Self {
            ids: ids.clone(),
            order: on_device.narrow(0, 0, n)?,
            offsets: on_device.narrow(0, n, groups.len() - n)?,
        })
    }
}

impl Embedded {
    /// Token ids and positions in the document, one of each per row, for tables on `device`.
    ///
    /// # Errors
    /// If their numbers differ, or the device fails.
    pub fn new(input_ids: &[u32], position_ids: &[u32], device: &Device) -> Result<Self> {
        Self::at(input_ids, &Positions::new(position_ids), device)
    }

    /// [`Embedded::new`] at positions that other operations read, too: they are copied to the device once.
    ///
    /// # Errors
    /// As [`Embedded::new`].
    pub fn at(input_ids: &[u32], positions: &Positions, device: &Device) -> Result<Self> {
        Self::with_copy(input_ids, positions, upload(input_ids, input_ids.len(), device)?)
    }

    /// [`Embedded::at`] for the tokens of packed documents: on a GPU all is copied at once, with what attention reads of the documents.
    ///
    /// # Errors
    /// As [`Embedded::new`].
    pub fn of_documents(input_ids: &[u32], documents: &CuSeqlens, device: &Device) -> Result<Self> {
        let copy = match cuda::Gpu::of(device) {
            Some(_) => documents.upload_with_ids(input_ids, device)?,
            None => upload(input_ids, input_ids.len(), device)?,
        };
        Self::with_copy(input_ids, documents.positions(), copy)
    }

    /// [`Embedded::at`] with token ids of which there is a copy on the device, `[N]` u32.
    pub(crate) fn with_copy(input_ids: &[u32], positions: &Positions, copy: Tensor) -> Result<Self> {
        let (n, position_ids) = (input_ids.len(), positions.as_slice());
        if position_ids.len() != n {
            bail!("embedding: {n} token ids and {} positions", position_ids.len());
        }
        Ok(Self {
            rows: input_ids.iter().copied().zip(position_ids.iter().copied()).collect(),
            position_ids: positions.on(copy.device())?,
            input_ids: copy,
            groups: Arc::default(),
        })
    }

    /// The channels of two tables of these shapes.
    fn channels(&self, tokens: &[usize], positions: &[usize]) -> Result<usize> {
        match (tokens, positions) {
            ([_, c], [_, d]) if c == d => Ok(*c),
            _ => bail!("embedding: expected tables [V, C] and [T, C], got {tokens:?} and {positions:?}"),
        }
    }

    /// Refuses ids outside tables of these sizes.
    fn check(&self, vocabulary: usize, positions: usize) -> Result<()> {
        let outside = |(token, position): &&(u32, u32)| {
            *token as usize >= vocabulary || *position as usize >= positions
        };
        match self.rows.iter().find(outside) {
            Some((token, position)) => bail!(
                "embedding: token {token} at position {position} is outside of {vocabulary} tokens and {positions} positions"
            ),
            None => Ok(()),
        }
    }

    /// Ids, order and offsets of the rows grouped by token, on the device.
    fn token_groups(&self) -> Result<[&Tensor; 3]> {
        grouped(&self.groups[0], || RowGroups::new(self.rows.iter().map(|row| row.0), &self.input_ids))
    }

    /// The same by position.
    fn position_groups(&self) -> Result<[&Tensor; 3]> {
        grouped(&self.groups[1], || RowGroups::new(self.rows.iter().map(|row| row.1), &self.position_ids))
    }
}

/// The tensors of the groups in `cell`, which `make` makes unless they are there.
fn grouped(cell: &OnceLock<RowGroups>, make: impl FnOnce() -> Result<RowGroups>) -> Result<[&Tensor; 3]> {
    let RowGroups { ids, order, offsets } = match cell.get() {
        Some(groups) => groups,
        None => {
            let groups = make()?;
            cell.get_or_init(|| groups)
        }
    };
    Ok([ids, order, offsets])
}

/// Sequentially by row, so that sums do not depend on the number of threads.
fn scatter_add(rows: &[(u32, u32)], dx: &[f32], c: usize, dtokens: &mut [f32], dpositions: &mut [f32]) {
    for ((token, position), dx) in rows.iter().zip(dx.chunks(c.max(1))) {
        add_to_row(dtokens, *token, dx);
        add_to_row(dpositions, *position, dx);
    }
}

/// Adds `dx` to a row of a table as wide as it.
fn add_to_row(table: &mut [f32], row: u32, dx: &[f32]) {
    let c = dx.len();
    table[row as usize * c..][..c].iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
}

struct EmbeddingSum {
    at: Embedded,
    /// Part of the kernel on CUDA; a separate operation elsewhere.
    dropout: Option<Dropout>,
}

impl CustomOp2 for EmbeddingSum {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let c = self.at.channels(tokens_layout.dims(), positions_layout.dims())?;
        self.at.check(tokens_layout.dims()[0], positions_layout.dims()[0])?;
        let tokens = cpu::slice(self.name(), tokens, tokens_layout)?;
        let positions = cpu::slice(self.name(), positions, positions_layout)?;
        let mut x = Vec::with_capacity(self.at.rows.len() * c);
        for (token, position) in &*self.at.rows {
            let rows =
                tokens[*token as usize * c..][..c].iter().zip(&positions[*position as usize * c..][..c]);
            x.extend(rows.map(|(token, position)| token + position));
        }
        Ok((CpuStorage::F32(x), (self.at.rows.len(), c).into()))
    }

    fn cuda_fwd(
        &self,
        tokens: &CudaStorage,
        tokens_layout: &Layout,
        positions: &CudaStorage,
        positions_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let c = self.at.channels(tokens_layout.dims(), positions_layout.dims())?;
        self.at.check(tokens_layout.dims()[0], positions_layout.dims()[0])?;
        let (inputs, shape) =
            ([(tokens, tokens_layout), (positions, positions_layout)], (self.at.rows.len(), c).into());
        cuda::operation(self.name(), inputs, shape, |gpu, tables, x| {
            let [tokens, positions] = tables;
            gpu.embedding(tokens, Some(positions), &self.at, (c, self.dropout), x)
        })
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        _x: &Tensor,
        dx: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dtokens, dpositions) = (tokens.zeros_like()?, positions.zeros_like()?);
        embedding_backward(&self.at, dx, self.dropout, &dtokens, &dpositions)?;
        Ok((Some(dtokens), Some(dpositions)))
    }
}

struct TokenEmbedding {
    at: Embedded,
}

impl CustomOp1 for TokenEmbedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, tokens: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, c) = layout.shape().dims2()?;
        let tokens = cpu::slice(self.name(), tokens, layout)?;
        let rows = self.at.rows.iter().map(|(token, _)| &tokens[*token as usize * c..][..c]);
        Ok((CpuStorage::F32(rows.flatten().copied().collect()), (self.at.rows.len(), c).into()))
    }

    fn cuda_fwd(&self, tokens: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, c) = layout.shape().dims2()?;
        let shape = (self.at.rows.len(), c).into();
        cuda::operation(self.name(), [(tokens, layout)], shape, |gpu, [tokens], x| {
            gpu.embedding(tokens, None, &self.at, (c, None), x)
        })
    }

    fn bwd(&self, tokens: &Tensor, _x: &Tensor, dx: &Tensor) -> Result<Option<Tensor>> {
        let dtokens = tokens.zeros_like()?;
        token_embedding_backward(&self.at, dx, &dtokens)?;
        Ok(Some(dtokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, random};
    use candle_core::Var;

    fn at(tokens: &[u32], positions: &[u32]) -> Result<Embedded> {
        Embedded::new(tokens, positions, &Device::Cpu)
    }

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for (tokens, positions) in
            [(&[][..], &[][..]), (&[3][..], &[0][..]), (&[1, 4, 1, 1, 0], &[0, 1, 2, 0, 1])]
        {
            let at = at(tokens, positions)?;
            let (wte, wpe) =
                (Var::from_tensor(&random(&[5, 7], 1)?)?, Var::from_tensor(&random(&[3, 7], 2)?)?);
            let fused = embedding_sum(&wte, &wpe, &at, None)?;
            assert_eq!(fused.dims(), [tokens.len(), 7]);
            if tokens.is_empty() {
                continue;
            }
            let slow = embedding_sum_slow(&wte, &wpe, &at, None)?;
            assert_close("x", &fused, &slow, 0.0, 0.0);
            let (fused, slow) = (fused.sqr()?.sum_all()?.backward()?, slow.sqr()?.sum_all()?.backward()?);
            for var in [&wte, &wpe] {
                assert_close("gradient", fused.get(var).unwrap(), slow.get(var).unwrap(), 1e-5, 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_the_finite_differences() -> Result<()> {
        let (wte, wpe, at) = (random(&[4, 3], 1)?, random(&[2, 3], 2)?, at(&[2, 2, 0], &[0, 1, 0])?);
        assert_gradient("tokens", &wte, |wte| embedding_sum(wte, &wpe, &at, None))?;
        assert_gradient("positions", &wpe, |wpe| embedding_sum(&wte, wpe, &at, None))
    }

    #[test]
    fn tokens_alone_add_up_in_the_backward_pass() -> Result<()> {
        let (at, wte) = (at(&[1, 4, 1, 0], &[0, 1, 2, 900])?, Var::from_tensor(&random(&[5, 7], 1)?)?);
        let x = token_embedding(&wte, &at)?;
        assert_close("row", &x.narrow(0, 2, 1)?, &wte.narrow(0, 1, 1)?, 0.0, 0.0);
        let dx = random(&[4, 7], 2)?;
        let want = (&x * &dx)?.sum_all()?.backward()?;
        // Added to what is there.
        let sums = Var::from_tensor(&wte.ones_like()?)?;
        token_embedding_backward(&at, &dx, &sums.as_detached_tensor())?;
        assert_close("gradient", &(sums.as_tensor() - 1.0)?, want.get(&wte).unwrap(), 1e-6, 1e-6);
        assert!(token_embedding_backward(&at, &random(&[3, 7], 2)?, &sums).is_err());
        assert!(token_embedding(&random(&[4, 7], 1)?, &at).is_err());
        assert!(token_embedding_backward(&at, &dx, &random(&[4, 7], 1)?).is_err());
        Ok(())
    }

    #[test]
    fn ids_outside_the_tables_are_refused() -> Result<()> {
        let (wte, wpe) = (random(&[4, 3], 1)?, random(&[2, 3], 2)?);
        for at in [at(&[4], &[0])?, at(&[0], &[2])?] {
            assert!(embedding_sum(&wte, &wpe, &at, None).is_err());
            let (dx, dwte, dwpe) = (random(&[1, 3], 3)?, wte.zeros_like()?, wpe.zeros_like()?);
            assert!(embedding_backward(&at, &dx, None, &dwte, &dwpe).is_err());
        }
        assert!(at(&[0, 1], &[0]).is_err());
        Ok(())
    }
}
