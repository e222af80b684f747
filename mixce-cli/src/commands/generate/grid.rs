//! The sampling methods of one run, and their file names.

use anyhow::Result;
use mixce_lm::sampling::Sampling;

/// Every temperature with every top-p, in the order in which they were given.
pub(super) fn grid(
    temperatures: &[f64],
    top_k: Option<usize>,
    top_ps: &[f64],
    greedy: bool,
) -> Result<Vec<Sampling>> {
    let temperatures = if temperatures.is_empty() { &[1.0] } else { temperatures };
    let top_ps: Vec<Option<f64>> =
        if top_ps.is_empty() { vec![None] } else { top_ps.iter().copied().map(Some).collect() };
    let mut grid: Vec<Sampling> = Vec::new();
    for &temperature in temperatures {
        for &top_p in &top_ps {
            let sampling = Sampling { temperature, top_k, top_p, greedy };
            sampling.validate()?;
            // Duplicates would share a file.
            if !grid.contains(&sampling) {
                grid.push(sampling);
            }
        }
    }
    Ok(grid)
}

/// The file extension of a sampling method, as in the MixCE authors' scripts: `sample` and, for later runs, `sample1`, `sample2`;
/// `topp(p=0.95)`. Methods that those scripts lack are named similarly: `temperature(t=0.7)`, `topk(k=40)`, `greedy`.
pub(super) fn ending(sampling: &Sampling, run: usize) -> String {
    let mut ending = String::new();
    if sampling.greedy {
        ending += "greedy";
    }
    if sampling.temperature != 1.0 {
        ending += &format!("temperature(t={})", sampling.temperature);
    }
    ending += &sampling.top_k.map_or_else(String::new, |k| format!("topk(k={k})"));
    ending += &sampling.top_p.filter(|p| *p < 1.0).map_or_else(String::new, |p| format!("topp(p={p})"));
    if ending.is_empty() {
        ending += "sample";
    }
    if run > 0 {
        ending += &run.to_string();
    }
    ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_the_authors_call_them() {
        let endings = |temperatures: &[f64], top_ps: &[f64]| -> Vec<String> {
            grid(temperatures, None, top_ps, false).unwrap().iter().map(|s| ending(s, 0)).collect()
        };
        assert_eq!(endings(&[], &[]), ["sample"]);
        assert_eq!(endings(&[], &[0.85, 0.9, 0.85, 1.0]), ["topp(p=0.85)", "topp(p=0.9)", "sample"]);
        assert_eq!(
            endings(&[1.0, 0.7], &[1.0, 0.95]),
            ["sample", "topp(p=0.95)", "temperature(t=0.7)", "temperature(t=0.7)topp(p=0.95)"]
        );
        let unbiased = Sampling::default();
        assert_eq!([0, 1, 2].map(|run| ending(&unbiased, run)), ["sample", "sample1", "sample2"]);
        assert_eq!(ending(&Sampling { greedy: true, ..unbiased.clone() }, 0), "greedy");
        assert_eq!(ending(&Sampling { top_k: Some(40), ..unbiased }, 1), "topk(k=40)1");
        assert!(grid(&[0.0], None, &[], false).is_err() && grid(&[], None, &[1.5], false).is_err());
    }
}
