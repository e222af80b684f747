//! The optimizer: AdamW, gradient norm and clipping, learning-rate schedules.
pub mod adamw;
pub mod clip;
pub mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::{GradientNorms, clip_factor};
pub use schedule::{Schedule, ScheduleKind};
