use super::*;
use clap::Parser;
use std::sync::Mutex;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: SyntheticArgs,
}

fn parse(flags: &[&str]) -> SyntheticArgs {
    Cli::parse_from(["synthetic"].iter().chain(flags)).args
}

fn execute(args: &SyntheticArgs, json: bool, stop: bool) -> (Ended, Vec<String>) {
    let lines = Mutex::new(Vec::new());
    let stop = AtomicBool::new(stop);
    let environment = Environment {
        json,
        seed: None,
        stop: &stop,
        print: &|line| {
            lines.lock().unwrap().push(line.to_owned());
            Ok(())
        },
        bar: &|_| ProgressBar::hidden(),
    };
    let ended = run_in(args, &environment).unwrap();
    (ended, lines.into_inner().unwrap())
}

#[test]
fn a_small_grid_prints_a_table_and_draws_figures() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let flags = [
        "--objectives",
        "mle,mixce,js",
        "--etas",
        "0.1,0.5",
        "--vocab",
        "6",
        "--seeds",
        "1,2",
        "--epochs",
        "2",
        "--train-size",
        "300",
        "--dev-size",
        "50",
        "--batch-size",
        "100",
        "--out",
        &out,
    ];
    let args = parse(&flags);
    assert_eq!(execute(&args, false, true).0, Ended::Interrupted);
    let (ended, lines) = execute(&args, false, false);
    assert_eq!(ended, Ended::Complete);
    assert!(lines[0].starts_with("| V | zeros | objective |"), "{lines:?}");
    for name in ["*gold*", "*counted*", "| mle |", "| mixce |", "| js |"] {
        assert!(lines[0].contains(name), "{name}: {}", lines[0]);
    }
    for figure in ["avg-js-v6-z0.50", "avg-0s-v6-z0.50", "matrix-v6-z0.50-mle", "matrix-v6-z0.50-mixce"] {
        let svg = std::fs::read_to_string(folder.path().join(format!("run/figures/{figure}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{figure}");
        assert!(svg.contains("<rect") || svg.contains("<polyline"), "{figure}");
    }
    // 2 seeds x (mle, 2 mixce, 2 js); a second run restores them all.
    let (_, lines) = execute(&args, true, false);
    assert_eq!(lines.len(), 10);
    for line in lines {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["avg_js"].as_f64().unwrap() > 0.0);
    }
    let csv = std::fs::read_to_string(folder.path().join("run/cells.csv")).unwrap();
    assert_eq!(csv.lines().count(), 11);
}

#[test]
fn figure3_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("f.svg").display().to_string();
    let (_, lines) = execute(&parse(&["figure3", "--out", &out]), false, false);
    assert_eq!(lines, std::slice::from_ref(&out));
    assert!(std::fs::read_to_string(out).unwrap().contains("reverse, CE(Q, P)"));
}

#[test]
fn flags_override_presets() {
    let grid =
        grid(&parse(&["--preset", "appendix", "--vocab", "20", "--model", "table", "--lr", "0.5"]), Some(3));
    assert_eq!((grid.zeros.as_slice(), grid.vocabs.as_slice()), ([0.1, 0.9].as_slice(), [20].as_slice()));
    assert_eq!((grid.train.lr, grid.train.weight_decay, grid.train.model), (0.5, 0.0, ModelKind::Table));
    assert_eq!(grid.seeds, SEEDS);
    let plain = super::grid(&parse(&["--estimator", "exact"]), Some(3));
    assert_eq!((plain.seeds.as_slice(), plain.train.estimator), ([3].as_slice(), Estimator::Exact));
    assert!(Cli::try_parse_from(["synthetic", "--estimator", "guess"]).is_err());
    assert!(Cli::try_parse_from(["synthetic", "--objectives", "mixcee"]).is_err());
}

#[test]
fn defaults_are_fitted_to_the_data_and_what_was_typed_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.txt");
    std::fs::write(&path, "a b c\nb c a\n").unwrap();
    let fitted = |flags: &[&str]| {
        let args = parse(flags);
        let mut grid = grid(&args, None);
        fit_defaults(&mut grid, &args);
        (grid.train.batch_size, grid.vocabs)
    };
    let text = path.display().to_string();
    assert_eq!(fitted(&["--train-size", "100"]), (100, vec![20]));
    assert_eq!(fitted(&["--train-size", "100", "--batch-size", "200"]).0, 200);
    assert_eq!(fitted(&["--text", &text]).1, [4]);
    assert_eq!(fitted(&["--text", &text, "--vocab", "20"]).1, [20]);
}
