//! The three lines of an AdamW update, in place and on all threads, for contiguous f32 tensors on the CPU.
//!
//! Every entry is computed on its own, so neither the number of threads nor the chunk size changes a bit.
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, bail};
use rayon::prelude::*;

/// Entries a thread takes at once: large enough to hide the cost of handing them out, small enough to stay in a core's cache.
const CHUNK: usize = 16 * 1024;

/// `m <- m + rate (scale g - m)`.
pub(super) struct FirstMoment {
    pub(super) rate: f32,
    pub(super) gradient_scale: f32,
}

/// `v <- keep v + rate (scale g)^2`.
pub(super) struct SecondMoment {
    pub(super) keep: f32,
    pub(super) rate: f32,
    pub(super) gradient_scale: f32,
}

/// `p <- decay_factor p - step_size m / (sqrt(v) / root_correction + epsilon)`.
pub(super) struct Apply {
    pub(super) decay_factor: f32,
    pub(super) step_size: f32,
    pub(super) root_correction: f32,
    pub(super) epsilon: f32,
}

impl InplaceOp2 for FirstMoment {
    fn name(&self) -> &'static str {
        "adamw-first-moment"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, ml: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (rate, scale) = (self.rate, self.gradient_scale);
        let (m, g) = (write(m, ml)?, read(g, gl)?);
        m.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(m, g)| {
            for (m, g) in m.iter_mut().zip(g) {
                *m += rate * (scale * g - *m);
            }
        });
        Ok(())
    }
}

impl InplaceOp2 for SecondMoment {
    fn name(&self) -> &'static str {
        "adamw-second-moment"
    }

    fn cpu_fwd(&self, v: &mut CpuStorage, vl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (keep, rate, scale) = (self.keep, self.rate, self.gradient_scale);
        let (v, g) = (write(v, vl)?, read(g, gl)?);
        v.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(v, g)| {
            for (v, g) in v.iter_mut().zip(g) {
                let g = scale * g;
                *v = keep * *v + rate * (g * g);
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for Apply {
    fn name(&self) -> &'static str {
        "adamw-apply"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        pl: &Layout,
        m: &CpuStorage,
        ml: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<()> {
        let (p, m, v) = (write(p, pl)?, read(m, ml)?, read(v, vl)?);
        let chunks = p.par_chunks_mut(CHUNK).zip(m.par_chunks(CHUNK)).zip(v.par_chunks(CHUNK));
        chunks.for_each(|((p, m), v)| {
            for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
                let denominator = v.sqrt() / self.root_correction + self.epsilon;
                *p = self.decay_factor * *p - self.step_size * (m / denominator);
            }
        });
        Ok(())
    }
}

fn write<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("adamw: a tensor is not contiguous") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("adamw: expected f32"),
    }
}

fn read<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("adamw: a tensor is not contiguous") };
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        _ => bail!("adamw: expected f32"),
    }
}
