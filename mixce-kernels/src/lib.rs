//! Differentiable tensor operations that candle lacks.
