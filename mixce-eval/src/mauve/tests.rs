use super::*;

/// Rows of `columns` numbers, half of whose mass is along few directions, shifted by `shift` along one.
fn rows(seed: u64, rows: usize, columns: usize, shift: f32) -> Features {
    let stream = Stream::new(seed);
    let value = |i: usize, j: usize| {
        let scale = 1.0 / (1.0 + j as f32);
        scale * stream.normal((i * columns + j) as u64) as f32 + if j == 1 { shift } else { 0.0 }
    };
    let values = (0..rows * columns).map(|at| value(at / columns, at % columns)).collect();
    Features::new(rows, columns, values).unwrap()
}

fn quick() -> MauveSettings {
    MauveSettings { seeds: vec![1, 2, 3], ..MauveSettings::default() }
}

fn score(p: &Features, q: &Features) -> Mauve {
    mauve(p, q, &quick()).unwrap()
}

#[test]
fn a_set_against_itself_is_near_one_and_worse_sets_score_less() {
    let p = rows(1, 600, 12, 0.0);
    let same = score(&p, &p);
    assert!(same.mauve.mean > 0.999 && same.frontier_integral.mean < 1e-9, "{same:?}");
    let (alike, near, far) = (
        score(&p, &rows(2, 600, 12, 0.0)),
        score(&p, &rows(3, 600, 12, 0.5)),
        score(&p, &rows(4, 600, 12, 3.0)),
    );
    let means = [&alike, &near, &far].map(|m| m.mauve.mean);
    assert!(means[0] > 0.9 && means[0] > means[1] && means[1] > means[2] && means[2] < 0.2, "{means:?}");
    assert!(far.frontier_integral.mean > near.frontier_integral.mean);
    assert_eq!((alike.buckets, alike.human_samples, alike.mauve.values.len()), (60, 600, 3));
}

#[test]
fn it_is_symmetric_up_to_the_noise_of_the_seeds() {
    let (p, q) = (rows(1, 500, 10, 0.0), rows(2, 400, 10, 0.4));
    let (forward, backward) = (score(&p, &q).mauve, score(&q, &p).mauve);
    let noise = forward.std.max(backward.std).max(0.005);
    assert!((forward.mean - backward.mean).abs() < 4.0 * noise, "{forward:?} {backward:?}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (p, q) = (rows(1, 700, 30, 0.0), rows(2, 700, 30, 0.2));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| score(&p, &q))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn odd_sets_are_scored_or_refused() {
    let equal = Features::new(40, 3, vec![1.0; 120]).unwrap();
    assert!(score(&equal, &equal).mauve.mean > 0.99, "identical texts");
    let zeros = Features::new(40, 3, vec![0.0; 120]).unwrap();
    assert!(score(&zeros, &equal).mauve.mean < 0.1);
    let few = Features::new(2, 3, vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0]).unwrap();
    assert!(score(&few, &few).mauve.mean > 0.99);
    let refused =
        |p: &Features, q: &Features, settings: &MauveSettings| mauve(p, q, settings).unwrap_err().to_string();
    let one = Features::new(1, 3, vec![1.0; 3]).unwrap();
    assert!(refused(&one, &few, &quick()).contains("got 1 human and 2 model"));
    let wide = Features::new(2, 4, vec![1.0; 8]).unwrap();
    assert!(refused(&wide, &few, &quick()).contains("4 columns, model features 3"));
    let broken = Features::new(2, 3, vec![1.0, f32::INFINITY, 0.0, 0.0, 1.0, 0.0]).unwrap();
    assert!(refused(&few, &broken, &quick()).contains("model features: the feature in row 0, column 1"));
    for (settings, words) in [
        (MauveSettings { seeds: vec![], ..quick() }, "seeds"),
        (MauveSettings { explained_variance: 1.5, ..quick() }, "(0, 1]"),
        (MauveSettings { scaling: f64::NAN, ..quick() }, "scaling"),
        (MauveSettings { buckets: Some(900), ..quick() }, "900 buckets"),
        (MauveSettings { buckets: Some(0), ..quick() }, "0 buckets"),
    ] {
        let told = refused(&few, &few, &settings);
        assert!(told.contains(words), "{told}");
    }
}
