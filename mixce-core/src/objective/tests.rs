use mixce_base::Hint as _;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::*;

pub(super) const P: [f64; 4] = [0.5, 0.3, 0.15, 0.05];

/// Every registered objective with its defaults and with a spread of parameters, the ends of their ranges included.
fn all() -> Vec<Arc<dyn Objective>> {
    let mut objectives = Vec::new();
    for spec in OBJECTIVES {
        let mut configs = vec![ObjectiveConfig::new(spec)];
        for parameter in spec.parameters {
            let values = [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0, 2.0].into_iter();
            let values: Vec<f64> = values.filter(|value| parameter.range.contains(*value)).collect();
            let spread = |config: &ObjectiveConfig| {
                let config = config.clone();
                let with = move |value| {
                    config.map(|known, given| if known == parameter { Some(value) } else { given })
                };
                values.clone().into_iter().map(with)
            };
            configs = configs.iter().flat_map(|config| spread(config).chain([config.clone()])).collect();
        }
        objectives.extend(configs.iter().map(|config| config.build().unwrap()));
    }
    objectives
}

fn grid() -> impl Iterator<Item = f64> {
    (1..=400).map(|i| -0.05 * f64::from(i))
}

/// Gradient descent on the logits of one context under the expected gradient `sum_j p_j w(q_j) (q - onehot_j)`.
pub(super) fn descend(objective: &dyn Objective, p: &[f64], steps: usize) -> Vec<f64> {
    let mut logits: Vec<f64> = vec![0.0; p.len()];
    let softmax = |z: &[f64]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.iter().map(|z| z.exp() / sum).collect::<Vec<_>>()
    };
    for _ in 0..steps {
        let q = softmax(&logits);
        let pull: Vec<f64> = p.iter().zip(&q).map(|(p, q)| p * objective.weight(q.ln())).collect();
        let total: f64 = pull.iter().sum();
        for ((z, q), pull) in logits.iter_mut().zip(&q).zip(&pull) {
            *z -= 2.0 * (total * q - pull);
        }
    }
    softmax(&logits)
}

pub(super) fn assert_near(name: &str, got: &[f64], want: &[f64], tolerance: f64) {
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < tolerance, "{name}: got {got}, want {want}");
    }
}

#[test]
fn population_optimum_of_mixce_is_reached_by_gradient_descent() {
    let golden = [
        (0.99, [0.500682, 0.299802, 0.149675, 0.049841]),
        (0.9, [0.507474, 0.297768, 0.146461, 0.048296]),
        (0.5, [0.564734, 0.276403, 0.121421, 0.037443]),
        (0.1, [0.824657, 0.124672, 0.039933, 0.010738]),
        (0.01, [0.979853, 0.014771, 0.004266, 0.001110]),
    ];
    for (eta, want) in golden {
        let objective = MixCe::new(eta).unwrap();
        assert_near("closed form", &objective.fixed_point(&P).unwrap(), &want, 1e-6);
        assert_near("descent", &descend(&objective, &P, 40_000), &want, 2e-6);
    }
}

#[test]
fn fixed_points_of_the_peers() {
    let alpha = Alpha::new(0.2).unwrap();
    assert_near("alpha", &alpha.fixed_point(&P).unwrap(), &[0.553610, 0.292343, 0.122915, 0.031132], 1e-6);
    assert_near("alpha", &descend(&alpha, &P, 20_000), &alpha.fixed_point(&P).unwrap(), 1e-6);
    for (gamma, want) in [(0.1, [0.590643, 0.309942, 0.099415, 0.0]), (0.3, [0.732143, 0.267857, 0.0, 0.0])] {
        let tailr = TaiLr::new(gamma, 0.0).unwrap();
        assert_near("tailr", &tailr.fixed_point(&P).unwrap(), &want, 1e-6);
        // The zeros are approached only like 1 / steps.
        assert_near("tailr descent", &descend(&tailr, &P, 200_000), &want, 1e-4);
    }
}

#[test]
fn fixed_points_are_distributions_and_keep_zeros() {
    let p = [0.7, 0.0, 0.3];
    for objective in all() {
        let Some(q) = objective.fixed_point(&p) else { continue };
        assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{objective:?}: {q:?}");
        assert_eq!(q[1], 0.0, "{objective:?}");
        assert!(q[0] >= 0.7 - 1e-12, "{objective:?} is not a sharpening: {q:?}");
        let one_hot = objective.fixed_point(&[0.0, 1.0]).unwrap();
        assert_near("one-hot", &one_hot, &[0.0, 1.0], 1e-9);
    }
}

#[test]
fn weights_on_tensors_equal_the_scalar_formula() {
    let log_q: Vec<f64> = grid().chain([0.0]).collect();
    let tensor = Tensor::new(log_q.as_slice(), &Device::Cpu).unwrap();
    for objective in all() {
        let want: Vec<f64> = log_q.iter().map(|l| objective.weight(*l)).collect();
        let got = objective.weights(&tensor).unwrap().to_vec1::<f64>().unwrap();
        assert_near(objective.name(), &got, &want, 1e-12);
        let single = objective.weights(&tensor.to_dtype(DType::F32).unwrap()).unwrap();
        assert_eq!(single.dtype(), DType::F32);
        let single: Vec<f64> = single.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        assert_near(objective.name(), &single, &want, 2e-6);
    }
}

#[test]
fn weight_is_minus_the_derivative_of_the_potential() {
    for objective in all() {
        for log_q in grid() {
            let h = 1e-5;
            let slope = (objective.potential(log_q + h) - objective.potential(log_q - h)) / (2.0 * h);
            // At the knee of a clamp the derivative jumps; central differences see the average of both sides.
            let (low, high) = (objective.weight(log_q - h), objective.weight(log_q + h));
            let inside = -slope >= low.min(high) - 1e-6 && -slope <= low.max(high) + 1e-6;
            assert!(inside, "{objective:?} at {log_q}: slope {slope}, weight {low}..{high}");
        }
    }
}

#[test]
fn limits_equal_the_known_simpler_objective() {
    let pairs: [(Box<dyn Objective>, Box<dyn Objective>); 7] = [
        (Box::new(MixCe::new(1.0).unwrap()), Box::new(Mle)),
        (Box::new(MixCe::new(0.0).unwrap()), Box::new(Dft)),
        (Box::new(Alpha::new(0.0).unwrap()), Box::new(Mle)),
        (Box::new(Alpha::new(1.0).unwrap()), Box::new(Dft)),
        (Box::new(TaiLr::new(0.0, 0.2).unwrap()), Box::new(Mle)),
        (Box::new(TaiLr::new(1.0, 0.0).unwrap()), Box::new(Dft)),
        (Box::new(Tvd::new(1.0).unwrap()), Box::new(Mle)),
    ];
    for (limit, simple) in pairs {
        for log_q in grid() {
            assert!((limit.weight(log_q) - simple.weight(log_q)).abs() < 1e-12, "{limit:?} at {log_q}");
        }
    }
}

#[test]
fn nothing_is_nan_at_the_ends() {
    for objective in all() {
        for log_q in [0.0, -745.0, f64::NEG_INFINITY] {
            assert!(objective.weight(log_q).is_finite(), "{objective:?} at {log_q}");
            assert!(!objective.loss(log_q).is_nan(), "{objective:?} at {log_q}");
            assert!(!objective.potential(log_q).is_nan(), "{objective:?} at {log_q}");
        }
    }
}

#[test]
fn parameters_out_of_range_are_refused() {
    for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(MixCe::new(value).is_err() && Alpha::new(value).is_err());
        assert!(TrSft::new(value).is_err() && Tvd::new(value).is_err());
        assert!(TaiLr::new(value, 0.0).is_err() && TaiLr::new(0.5, value).is_err());
    }
    assert!(TrSft::new(0.0).is_err());
    let error = MixCe::new(1.1).unwrap_err();
    assert_eq!(error.to_string(), "`eta` of objective `mixce` must be in [0, 1], got 1.1");
    assert!(error.hint().unwrap().starts_with("`eta` is the weight of the forward cross-entropy"));
}

#[test]
fn registered_names_and_defaults_build() {
    let mut names: Vec<&str> = OBJECTIVES.iter().map(|spec| spec.name).collect();
    for spec in OBJECTIVES {
        let config: ObjectiveConfig = spec.name.parse().unwrap();
        assert_eq!(config.build().unwrap().name(), spec.name);
        for parameter in spec.parameters {
            assert!(parameter.range.contains(parameter.default), "{} of {}", parameter.name, spec.name);
            assert!(config.map(|_, _| Some(f64::NAN)).build().is_err(), "{}", spec.name);
        }
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), OBJECTIVES.len(), "a name is used twice");
    assert_eq!(ObjectiveConfig::default(), "mixce".parse().unwrap());
    assert_eq!(ObjectiveConfig::default().get("eta").unwrap(), 0.1);
}

#[test]
fn objectives_are_read_from_text_and_written_back() {
    for text in ["mle", "mixce", "mixce:eta=0.3", "tailr:gamma=1e-9,min_weight=0.25", "tailr:min_weight=0"] {
        assert_eq!(text.parse::<ObjectiveConfig>().unwrap().to_string(), text);
    }
    let config: ObjectiveConfig = "tailr:min_weight=0.3,gamma=0.1".parse().unwrap();
    assert_eq!(config.to_string(), "tailr:gamma=0.1,min_weight=0.3");
    assert_eq!(config.build().unwrap().weight(f64::NEG_INFINITY), 0.3);

    for (text, message) in [
        ("mixe", "unknown objective `mixe`: expected one of `mle`, `mixce`, `tailr`"),
        ("mle:eta=1", "objective `mle` has no parameter `eta`: it has none"),
        ("tailr:eta=1", "objective `tailr` has no parameter `eta`: it has `gamma`, `min_weight`"),
        ("mixce:eta", "objective `mixce`: expected `parameter=number`, got `eta`"),
        ("mixce:eta=half", "objective `mixce`: expected `parameter=number`, got `eta=half`"),
        ("mixce:", "objective `mixce`: expected `parameter=number`, got ``"),
        ("mixce:eta=1,eta=0.5", "`eta` of objective `mixce` is given twice"),
    ] {
        let error = text.parse::<ObjectiveConfig>().unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    let hint = |text: &str| text.parse::<ObjectiveConfig>().unwrap_err().hint();
    assert_eq!(hint("mixce:0.5").as_deref(), Some("write `mixce:eta=0.1`"));
    assert_eq!(hint("mle:").as_deref(), Some("write `mle`"));
}

#[test]
fn objectives_are_read_from_tables_too() {
    let read = |json: &str| serde_json::from_str::<ObjectiveConfig>(json);
    let want: ObjectiveConfig = "mixce:eta=0.5".parse().unwrap();
    assert_eq!(read(r#"{"eta": 0.5, "name": "mixce"}"#).unwrap(), want);
    assert_eq!(read(r#""mixce:eta=0.5""#).unwrap(), want);
    assert_eq!(read(r#"{"name": "tvd", "eta": 1}"#).unwrap(), "tvd:eta=1".parse().unwrap());
    assert_eq!(serde_json::to_string(&want).unwrap(), r#""mixce:eta=0.5""#);
    for (json, words) in [
        (r#"{"name": "mixce", "eta": 0.1, "gamma": 1}"#, "no parameter `gamma`: it has `eta`"),
        (r#"{"name": "mixe"}"#, "unknown objective `mixe`"),
        (r#"{"eta": 0.1}"#, "a table of `name` and numbers"),
        (r#"{"name": "mixce", "eta": "much"}"#, "a table of `name` and numbers"),
        ("3", "expected an objective"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn ranges_contain_what_they_show() {
    let cases = [
        (Range::closed(0.0, 1.0), "[0, 1]", [true, true, false]),
        (Range::left_open(0.0, 1.0), "(0, 1]", [false, true, false]),
        (Range::right_open(0.0, 1.0), "[0, 1)", [true, false, false]),
        (Range::at_least(0.5), "[0.5, inf)", [false, true, true]),
    ];
    for (range, shown, inside) in cases {
        assert_eq!(range.to_string(), shown);
        assert_eq!([0.0, 1.0, 7.0].map(|value| range.contains(value)), inside, "{range}");
        assert!(!range.contains(f64::NAN) && !range.contains(f64::INFINITY) && !range.contains(-1e-9));
    }
}

/// An objective as a library's user writes it, with nothing but its formulas.
#[derive(Debug)]
struct Own;

impl Objective for Own {
    fn name(&self) -> &'static str {
        "own"
    }

    fn weight(&self, log_q: f64) -> f64 {
        log_q.exp()
    }

    fn potential(&self, log_q: f64) -> f64 {
        -log_q.exp()
    }
}

#[test]
fn weights_on_tensors_have_a_default() {
    let log_q = Tensor::new(&[[-0.5f32, -2.0, 0.0]], &Device::Cpu).unwrap();
    let got = Own.weights(&log_q).unwrap();
    assert_eq!((got.dims(), got.dtype()), ([1, 3].as_slice(), DType::F32));
    let (got, want) = (got.to_vec2::<f32>().unwrap(), Dft.weights(&log_q).unwrap().to_vec2::<f32>().unwrap());
    assert!(got[0].iter().zip(&want[0]).all(|(got, want)| (got - want).abs() < 1e-7));
    assert_eq!(Own.fixed_point(&P), None);
}

/// The rows that the page on related objectives must have.
fn table_of_the_page() -> String {
    let mut table = String::from("| `--objective` | `w(q)` | parameters | |\n| --- | --- | --- | --- |\n");
    for ObjectiveSpec { name, weight, summary, parameters, .. } in OBJECTIVES {
        let parameters: Vec<String> = parameters.iter().map(ToString::to_string).collect();
        table += &format!("| `{name}` | `{weight}` | {} | {summary} |\n", parameters.join("; "));
    }
    table.replace("|  |", "| |")
}

#[test]
fn the_page_on_objectives_lists_them_as_they_are_registered() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/method/peers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = table_of_the_page();
    assert!(page.contains(&table), "docs/src/method/peers.md should have this table:\n{table}");
}
