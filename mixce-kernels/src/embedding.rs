//! Token and position embeddings: gather forward, scatter-add backward.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{self, with_slices_mut};

/// `x_t = tokens[input_ids_t] + positions[position_ids_t]`: two tables `[V, C]` and `[T, C]`, ids `[N]` u32, result `[N, C]`.
///
/// Fused for f32 on the CPU with a real backward pass, in which the gradients of rows that occur several times add up;
/// other dtypes and devices take [`embedding_sum_slow`].
///
/// # Errors
/// When shapes do not fit or an id is outside its table.
pub fn embedding_sum(tokens: &Tensor, positions: &Tensor, at: &Embedded) -> Result<Tensor> {
    if [tokens, positions].into_iter().all(cpu::is_cpu_f32) {
        let op = EmbeddingSum(at.clone());
        tokens.contiguous()?.apply_op2(&positions.contiguous()?, op)
    } else {
        embedding_sum_slow(tokens, positions, at)
    }
}

/// [`embedding_sum`] in plain candle operations.
///
/// # Errors
/// When shapes do not fit or an id is outside its table.
pub fn embedding_sum_slow(tokens: &Tensor, positions: &Tensor, at: &Embedded) -> Result<Tensor> {
    tokens.index_select(&at.input_ids, 0)? + positions.index_select(&at.position_ids, 0)?
}

/// The backward pass of [`embedding_sum`] by itself: adds the rows of `dx` `[N, C]` to `dtokens` and `dpositions` in place.
///
/// # Errors
/// When shapes do not fit, an id is outside its table, or a tensor is not f32 on the CPU.
pub fn embedding_backward(at: &Embedded, dx: &Tensor, dtokens: &Tensor, dpositions: &Tensor) -> Result<()> {
    let c = at.channels(dtokens.dims(), dpositions.dims())?;
    let ids = at.ids()?;
    if dx.dims() != [ids.len(), c] {
        bail!("embedding: expected a gradient [{}, {c}], got {:?}", ids.len(), dx.dims());
    }
    check_ids(&ids, dtokens.dim(0)?, dpositions.dim(0)?)?;
    let op = "embedding backward";
    cpu::with_slices(op, [dx], |[dx]| {
        with_slices_mut(op, [dtokens, dpositions], |[dtokens, dpositions]| {
            scatter_add(&ids, dx, c, dtokens, dpositions);
        })
    })?
}

/// Which rows of the two tables each token takes.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Token ids `[N]` u32.
    pub input_ids: Tensor,
    /// Positions in the document `[N]` u32.
    pub position_ids: Tensor,
}

impl Embedded {
    /// `(token, position)` of every row.
    fn ids(&self) -> Result<Vec<(usize, usize)>> {
        let (tokens, positions) = (self.input_ids.to_vec1::<u32>()?, self.position_ids.to_vec1::<u32>()?);
        if tokens.len() != positions.len() {
            bail!("embedding: {} token ids and {} positions", tokens.len(), positions.len());
        }
        Ok(tokens
            .into_iter()
            .zip(positions)
            .map(|(token, position)| (token as usize, position as usize))
            .collect())
    }

    /// The channels of two tables of these shapes.
    fn channels(&self, tokens: &[usize], positions: &[usize]) -> Result<usize> {
        match (tokens, positions) {
            ([_, c], [_, d]) if c == d => Ok(*c),
            _ => bail!("embedding: expected tables [V, C] and [T, C], got {tokens:?} and {positions:?}"),
        }
    }
}

fn check_ids(ids: &[(usize, usize)], vocabulary: usize, positions: usize) -> Result<()> {
    match ids.iter().find(|(token, position)| *token >= vocabulary || *position >= positions) {
        Some((token, position)) => bail!(
            "embedding: token {token} at position {position} is outside of {vocabulary} tokens and {positions} positions"
        ),
        None => Ok(()),
    }
}

/// Row after row, so that sums do not depend on the number of threads.
fn scatter_add(ids: &[(usize, usize)], dx: &[f32], c: usize, dtokens: &mut [f32], dpositions: &mut [f32]) {
    for ((token, position), dx) in ids.iter().zip(dx.chunks(c.max(1))) {
        dtokens[token * c..][..c].iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
        dpositions[position * c..][..c].iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
    }
}

struct EmbeddingSum(Embedded);

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
        let c = self.0.channels(tokens_layout.dims(), positions_layout.dims())?;
        let ids = self.0.ids()?;
        check_ids(&ids, tokens_layout.dims()[0], positions_layout.dims()[0])?;
        let tokens = cpu::slice(self.name(), tokens, tokens_layout)?;
        let positions = cpu::slice(self.name(), positions, positions_layout)?;
        let mut x = Vec::with_capacity(ids.len() * c);
        for (token, position) in &ids {
            let rows = tokens[token * c..][..c].iter().zip(&positions[position * c..][..c]);
            x.extend(rows.map(|(token, position)| token + position));
        }
        Ok((CpuStorage::F32(x), (ids.len(), c).into()))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        _x: &Tensor,
        dx: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dtokens, dpositions) = (tokens.zeros_like()?, positions.zeros_like()?);
        embedding_backward(&self.0, dx, &dtokens, &dpositions)?;
        Ok((Some(dtokens), Some(dpositions)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, random};
    use candle_core::{Device, Var};

    fn at(tokens: &[u32], positions: &[u32]) -> Result<Embedded> {
        let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), &Device::Cpu);
        Ok(Embedded { input_ids: ids(tokens)?, position_ids: ids(positions)? })
    }

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for (tokens, positions) in
            [(&[][..], &[][..]), (&[3][..], &[0][..]), (&[1, 4, 1, 1, 0], &[0, 1, 2, 0, 1])]
        {
            let at = at(tokens, positions)?;
            let (wte, wpe) =
                (Var::from_tensor(&random(&[5, 7], 1)?)?, Var::from_tensor(&random(&[3, 7], 2)?)?);
            let fused = embedding_sum(&wte, &wpe, &at)?;
            assert_eq!(fused.dims(), [tokens.len(), 7]);
            if tokens.is_empty() {
                continue;
            }
            let slow = embedding_sum_slow(&wte, &wpe, &at)?;
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
        assert_gradient("tokens", &wte, |wte| embedding_sum(wte, &wpe, &at))?;
        assert_gradient("positions", &wpe, |wpe| embedding_sum(&wte, wpe, &at))
    }

    #[test]
    fn ids_outside_the_tables_are_refused() -> Result<()> {
        let (wte, wpe) = (random(&[4, 3], 1)?, random(&[2, 3], 2)?);
        for at in [at(&[4], &[0])?, at(&[0], &[2])?, at(&[0, 1], &[0])?] {
            assert!(embedding_sum(&wte, &wpe, &at).is_err());
            assert!(
                embedding_backward(&at, &random(&[1, 3], 3)?, &wte.zeros_like()?, &wpe.zeros_like()?)
                    .is_err()
            );
        }
        Ok(())
    }
}
