use super::*;
use std::sync::atomic::AtomicUsize;

fn tiny() -> Grid {
    Grid {
        objectives: vec![ObjectiveName::MLE, ObjectiveName::MIXCE, ObjectiveName::TWO_KLS],
        etas: vec![0.5, 1.0],
        vocabs: vec![6],
        zeros: vec![0.5],
        seeds: vec![7, 42],
        source: Source::Random,
        train: TrainConfig {
            epochs: 2,
            train_size: 200,
            dev_size: 50,
            batch_size: 100,
            ..TrainConfig::default()
        },
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mixce-grid-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn a_killed_run_continues_and_gives_the_same_cells() {
    let (grid, folder) = (tiny(), folder("resume"));
    let runner = Runner::new(&grid, Some(&folder));
    let go = AtomicBool::new(false);
    // Stopped after the first cell.
    let first = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    runner
        .run(&stop, &|_| {
            first.fetch_add(1, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
        })
        .unwrap();
    let first = first.into_inner();
    assert!((1..10).contains(&first), "{first}");
    let all = runner.run(&go, &|_| ()).unwrap();
    assert_eq!(all.len(), 10, "2 seeds x (mle + 2 mixce + 2 two-kls)");
    assert!(all.iter().any(|f| f.restored) && all.iter().any(|f| !f.restored));
    let fresh = Runner::new(&grid, None).run(&go, &|_| ()).unwrap();
    for (a, b) in all.iter().zip(&fresh) {
        assert_eq!((a.cell.key, a.cell.avg_js, a.cell.epochs), (b.cell.key, b.cell.avg_js, b.cell.epochs));
    }
    assert!(all.iter().map(|f| f.cell.key).eq(runner.cells().unwrap()), "in the order of the grid");
    // eta = 1 is MLE, and is trained once.
    assert_eq!(all[0].cell.avg_js, all[2].cell.avg_js);
    assert_eq!(std::fs::read_dir(folder.join("cells")).unwrap().count(), 6);
    assert!(all[0].learned.is_some(), "the first seed keeps its matrix");
    // Other settings do not take over old cells, a broken file is trained again.
    let mut other = grid.clone();
    other.train.epochs = 1;
    assert!(Runner::new(&other, Some(&folder)).run(&go, &|_| ()).unwrap().iter().all(|f| !f.restored));
    for file in std::fs::read_dir(folder.join("cells")).unwrap() {
        std::fs::write(file.unwrap().path(), "{").unwrap();
    }
    assert!(runner.run(&go, &|_| ()).unwrap().iter().all(|f| !f.restored));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn json_of_a_cell_has_the_documented_keys() {
    let grid = Grid { objectives: vec![ObjectiveName::MIXCE], etas: vec![0.5], seeds: vec![7], ..tiny() };
    let done = Runner::new(&grid, None).run(&AtomicBool::new(false), &|_| ()).unwrap();
    let json = serde_json::to_value(&done[0].cell).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut want = [
        "objective",
        "eta",
        "vocab",
        "zeros",
        "seed",
        "estimator",
        "avg_js",
        "avg_0s",
        "best_epoch",
        "epochs",
        "seconds",
    ];
    want.sort_unstable();
    let mut keys = keys;
    keys.sort_unstable();
    assert_eq!(keys, want);
    assert_eq!((json["objective"].as_str(), json["estimator"].as_str()), (Some("mixce"), Some("counts")));
}

#[test]
fn presets_have_the_size_of_the_paper() {
    let table = Grid::table1();
    // mle 1, reverse-kl 1, two-kls 7, js 5, mixce-star 7, mixce 7 = 28; 5 vocabularies, 5 seeds.
    assert_eq!(Runner::new(&table, None).cells().unwrap().len(), 28 * 25);
    assert_eq!(Runner::new(&Grid::appendix(), None).cells().unwrap().len(), 28 * 50);
    let none = Grid { seeds: vec![], ..table.clone() };
    assert!(Runner::new(&none, None).cells().unwrap_err().to_string().contains("`seeds`"));
    let js = Grid { train: TrainConfig { estimator: Estimator::Exact, ..TrainConfig::default() }, ..table };
    assert!(Runner::new(&js, None).cells().is_err());
}
