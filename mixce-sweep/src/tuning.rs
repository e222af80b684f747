//! The temperature at which one model has the diversity of another.

/// A temperature and whether it reaches the wanted diversity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matched {
    /// The temperature, rounded to thousandths.
    pub temperature: f64,
    /// False if the diversity is outside the range that was measured; then the temperature is that of the nearest measured one.
    pub reached: bool,
}

/// The temperature whose diversity is `wanted`, linear between the nearest measured points (temperature, diversity); none without points.
///
/// If noise makes the curve cross `wanted` several times, the crossing at the highest temperature counts: the least change of the model.
#[must_use]
pub fn temperature_of(points: &[(f64, f64)], wanted: f64) -> Option<Matched> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| b.0.total_cmp(&a.0));
    let crossing = points.windows(2).find_map(|pair| {
        let [(warm, of_warm), (cold, of_cold)] = [pair[0], pair[1]];
        let (low, high) = (of_warm.min(of_cold), of_warm.max(of_cold));
        let share = if of_warm == of_cold { 0.0 } else { (of_warm - wanted) / (of_warm - of_cold) };
        (low..=high).contains(&wanted).then_some(warm + share * (cold - warm))
    });
    let nearest = || points.iter().min_by(|a, b| (a.1 - wanted).abs().total_cmp(&(b.1 - wanted).abs()));
    let reached = crossing.is_some() || points.iter().any(|point| point.1 == wanted);
    let temperature = crossing.or_else(|| nearest().map(|point| point.0))?;
    Some(Matched { temperature: (temperature * 1000.0).round() / 1000.0, reached })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(points: &[(f64, f64)], wanted: f64) -> (f64, bool) {
        let matched = temperature_of(points, wanted).unwrap();
        (matched.temperature, matched.reached)
    }

    #[test]
    fn points_are_joined_by_lines() {
        let points = [(0.5, 0.6), (1.0, 0.9), (0.75, 0.8)];
        assert_eq!(at(&points, 0.85), (0.875, true));
        assert_eq!(at(&points, 0.7), (0.625, true));
        assert_eq!(at(&points, 0.9), (1.0, true));
        assert_eq!(at(&points, 0.8001), (0.75, true), "rounded");
    }

    #[test]
    fn outside_of_the_points_the_nearest_is_taken_and_told() {
        let points = [(0.5, 0.6), (1.0, 0.9)];
        assert_eq!(at(&points, 0.5), (0.5, false));
        assert_eq!(at(&points, 0.95), (1.0, false));
        assert_eq!(at(&[(1.0, 0.9)], 0.9), (1.0, true));
        assert_eq!(temperature_of(&[], 0.9), None);
    }

    #[test]
    fn of_several_crossings_the_warmest_counts() {
        assert_eq!(at(&[(0.6, 0.8), (0.7, 0.7), (0.8, 0.9), (1.0, 0.95)], 0.75), (0.725, true));
        assert_eq!(at(&[(0.7, 0.8), (0.8, 0.8), (1.0, 0.9)], 0.8), (0.8, true));
    }
}
