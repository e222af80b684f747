//! Scales: from coordinates to pixels, and where the ticks are.

use super::Axis;

/// A linear map from coordinates to pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    /// Position and label of each tick.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// A scale that shows all `values` between the pixels `from` and `to`, with some room. Non-finite values are ignored.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        if !axis.places.is_empty() {
            let last = axis.places.len() as f64 - 1.0;
            let ticks = (0..).map(f64::from).zip(axis.places.iter().cloned()).collect();
            return Self { low: -0.5, high: last + 0.5, from, to, ticks };
        }
        let finite = values.filter(|value| value.is_finite());
        let (mut low, mut high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if axis.from_zero {
            low = low.min(0.0);
        }
        if low == high {
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let room = (high - low) * 0.05;
        let low = if axis.from_zero && low == 0.0 { low } else { low - room };
        let high = high + room;
        let step = nice_step((high - low) / 8.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let ticks = (first..=last).map(|k| k as f64 * step).map(|at| (at, label(at, decimals))).collect();
        Self { low, high, from, to, ticks }
    }

    /// The pixel of a coordinate.
    pub(super) fn pixel(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Whether a coordinate is shown.
    pub(super) fn shows(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

fn label(at: f64, decimals: usize) -> String {
    // A tick at zero may be -0.
    let text = format!("{:.decimals$}", at + 0.0);
    if text.trim_start_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_inside_the_scale() {
        let scale = Scale::new(&Axis::linear("x"), [0.81, 0.93].into_iter(), 0.0, 100.0);
        let labels: Vec<&str> = scale.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0.82", "0.84", "0.86", "0.88", "0.90", "0.92"]);
        assert!(scale.ticks.iter().all(|(at, _)| scale.shows(*at)));
        assert!((scale.pixel(0.87) - 50.0).abs() < 1e-9);
        let zero = Scale::new(&Axis::from_zero("x"), [4000.0].into_iter(), 0.0, 100.0);
        assert_eq!(zero.ticks.first().map(|(_, label)| label.as_str()), Some("0"));
        assert_eq!(zero.pixel(0.0), 0.0);
    }

    #[test]
    fn places_are_evenly_spaced_and_nothing_still_has_a_scale() {
        let scale =
            Scale::new(&Axis::places("eta", vec!["0.1".into(), "1".into()]), [].into_iter(), 0.0, 100.0);
        assert_eq!((scale.pixel(0.0), scale.pixel(1.0)), (25.0, 75.0));
        for values in [vec![], vec![f64::NAN], vec![3.0], vec![0.0]] {
            let scale = Scale::new(&Axis::linear("x"), values.iter().copied(), 0.0, 10.0);
            assert!(scale.pixel(3.0).is_finite() && scale.ticks.len() > 2, "{values:?} {scale:?}");
        }
    }
}
