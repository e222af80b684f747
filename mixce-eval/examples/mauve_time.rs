//! Times MAUVE on features from files: `mauve_time HUMAN.npy MODEL.npy [SEEDS]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::time::Instant;

use mixce_eval::features::Features;
use mixce_eval::mauve::{MauveSettings, mauve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [human, model, rest @ ..] = arguments.as_slice() else {
        return Err("expected HUMAN.npy MODEL.npy [SEEDS]".into());
    };
    let [human, model] = [human, model].map(|path| Features::read(Path::new(path)));
    let (human, model) = (human?, model?);
    let seeds: u64 = rest.first().map_or(Ok(1), |n| n.parse())?;
    let started = Instant::now();
    let settings = MauveSettings { seeds: (0..seeds).collect(), ..MauveSettings::default() };
    let found = mauve(&human, &model, &settings)?;
    println!("{found:?}\n{:.3} s", started.elapsed().as_secs_f64());
    Ok(())
}
