//! A snapshot in words: the lines that are printed where there is no terminal, and the parts of them that the screen shows too.

use mixce_base::printable::printable_line;

use crate::curves::{Evaluation, Step};
use crate::run::{Run, RunState};
use crate::samples::Sample;
use crate::sweep::{CellState, Sweep, SweepState};
use crate::watch::Snapshot;

/// Characters of a sample's prompt and of its text.
const SAMPLE_CHARS: usize = 240;

/// A name and a value.
pub(crate) type Fact = (&'static str, String);

/// A snapshot as lines of text.
#[must_use]
pub fn text(snapshot: &Snapshot) -> String {
    match snapshot {
        Snapshot::Run(run) => run_text(run),
        Snapshot::Sweep(sweep) => sweep_text(sweep),
    }
}

fn run_text(run: &Run) -> String {
    let mut facts: Vec<Fact> = vec![("run", run.folder.display().to_string()), ("state", run_state(run))];
    facts.extend(run_facts(run));
    facts_text(&facts) + &samples_text(&run.samples)
}

fn sweep_text(sweep: &Sweep) -> String {
    let mut facts: Vec<Fact> =
        vec![("sweep", sweep.folder.display().to_string()), ("state", sweep_state(sweep.state).to_owned())];
    facts.extend(sweep_facts(sweep));
    let mut text = facts_text(&facts);
    let mut group = "";
    for row in &sweep.rows {
        if row.group != group {
            group = &row.group;
            text += &format!("\n{}\n", printable_line(group));
        }
        let cells: Vec<String> =
            row.cells.iter().map(|cell| format!("seed {}: {}", cell.seed, cell_state(&cell.state))).collect();
        text += &format!("  {}  {}\n", printable_line(&row.system), cells.join(", "));
    }
    for (cell, error) in failures(sweep) {
        text += &format!("\n{cell} failed: {error}\n");
    }
    for chosen in &sweep.chosen {
        text += &format!("\nchosen: {}\n", printable_line(chosen));
    }
    text + &samples_text(&sweep.samples)
}

fn facts_text(facts: &[Fact]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}  {}\n", printable_line(value))).collect()
}

fn samples_text(samples: &[Sample]) -> String {
    samples.iter().map(|sample| format!("\n{}\n", sample_in_a_line(sample))).collect()
}

/// A sample in one line, cut where it is long. Characters that a terminal obeys are shown.
pub(crate) fn sample_in_a_line(sample: &Sample) -> String {
    let cut = |text: &str| match text.char_indices().nth(SAMPLE_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    };
    let shown = format!("{} | {}", cut(sample.prompt.trim()), cut(sample.text.trim()));
    printable_line(&shown).into_owned()
}

/// How a run stands.
pub(crate) fn run_state(run: &Run) -> String {
    match run.state {
        RunState::Waiting => "waiting for its first step".to_owned(),
        RunState::Running { process: Some(process) } => format!("running (process {process})"),
        RunState::Running { process: None } => "running".to_owned(),
        RunState::Finished => "finished".to_owned(),
        RunState::Interrupted => "interrupted; `train --resume auto` continues it".to_owned(),
        RunState::Failed { step } => format!("failed: loss or gradient not finite at step {step}"),
        RunState::Gone => "gone: the folder has vanished".to_owned(),
    }
}

/// How a sweep stands.
pub(crate) fn sweep_state(state: SweepState) -> &'static str {
    match state {
        SweepState::Waiting => "waiting for its first cell",
        SweepState::Running => "running",
        SweepState::Finished => "finished",
        SweepState::Interrupted => "interrupted; the same command continues it",
        SweepState::Failed => "ended with failed cells; the same command tries them again",
        SweepState::Gone => "gone: the folder has vanished",
    }
}

/// What is known of a run, without its folder and state.
pub(crate) fn run_facts(run: &Run) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    add("model", run.model.clone());
    add("objective", run.objective.clone());
    add("step", step_of(run));
    add("time left", run.seconds_left.map(|seconds| format!("{} without evaluations", duration(seconds))));
    if let Some(step) = &run.last_step {
        for (name, value) in step_facts(step) {
            add(name, value);
        }
    }
    add("memory", run.memory_bytes.map(bytes));
    add("last line", run.quiet_seconds.map(|seconds| format!("{} ago", duration(seconds))));
    if let Some(last) = &run.last_evaluation {
        add("development", nll_at(last));
        add("perplexity", last.valid_perplexity.map(|perplexity| format!("{perplexity:.4}")));
        add("MAUVE", last.valid_mauve.map(|mauve| format!("{mauve:.4}")));
    }
    add("best", run.best.as_ref().and_then(nll_at));
    add(
        "unreadable",
        (run.unreadable_lines > 0).then(|| format!("{} lines of metrics.jsonl", run.unreadable_lines)),
    );
    facts
}

fn step_of(run: &Run) -> Option<String> {
    let step = run.last_step.as_ref()?;
    let epoch = step.epoch.map_or_else(String::new, |epoch| format!(", epoch {}", epoch + 1));
    Some(match run.progress() {
        Some((done, total)) => {
            format!("{done} of {total} ({:.0} %){epoch}", 100.0 * done as f64 / total as f64)
        }
        None => format!("{}{epoch}", step.step),
    })
}

fn step_facts(step: &Step) -> [(&'static str, Option<String>); 5] {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
    [
        ("loss", number(step.loss)),
        ("nll", number(step.nll)),
        ("learning rate", step.lr.map(|lr| format!("{lr:.3e}"))),
        ("gradient norm", number(step.grad_norm)),
        ("speed", step.tokens_per_s.map(|speed| format!("{speed:.0} tokens/s"))),
    ]
}

fn nll_at(found: &Evaluation) -> Option<String> {
    Some(format!("nll {:.4} (step {})", found.valid_nll?, found.step))
}

/// What is known of a sweep, without its folder and state.
pub(crate) fn sweep_facts(sweep: &Sweep) -> Vec<Fact> {
    let (done, all) = sweep.progress();
    let running = sweep.count(|state| matches!(state, CellState::Running { .. }));
    let failed = sweep.count(|state| matches!(state, CellState::Failed { .. }));
    let mut facts: Vec<Fact> =
        vec![("cells", format!("{done} of {all} done, {running} running, {failed} failed"))];
    facts.extend(sweep.seconds_left.map(|seconds| ("time left", format!("about {}", duration(seconds)))));
    facts.extend(sweep.memory_bytes.map(|memory| ("memory", bytes(memory))));
    facts.extend(sweep.metric.clone().map(|metric| ("chosen by", format!("development {metric}"))));
    facts
}

/// A cell's state in a word.
pub(crate) fn cell_state(state: &CellState) -> String {
    match state {
        CellState::Waiting => "-".to_owned(),
        CellState::Running { progress: Some((done, all)), .. } => format!("train {done}/{all}"),
        CellState::Running { command: Some(command), .. } => printable_line(command).into_owned(),
        CellState::Running { command: None, .. } => "running".to_owned(),
        CellState::Done { value: Some(value) } => format!("{value:.4}"),
        CellState::Done { value: None } => "done".to_owned(),
        CellState::Failed { .. } => "FAILED".to_owned(),
    }
}

/// The cells that failed, and why, in one line.
pub(crate) fn failures(sweep: &Sweep) -> impl Iterator<Item = (String, String)> {
    sweep.cells().filter_map(|cell| match &cell.state {
        CellState::Failed { error } => {
            Some((printable_line(&cell.id).into_owned(), printable_line(error).into_owned()))
        }
        _ => None,
    })
}

/// Seconds in the two largest of days, hours, minutes and seconds.
#[must_use]
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn bytes(count: u64) -> String {
    let (mega, giga) = (count as f64 / 1e6, count as f64 / 1e9);
    if giga >= 1.0 { format!("{giga:.1} GB") } else { format!("{mega:.0} MB") }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::curves::Curves;

    /// A run of which everything is known.
    pub(crate) fn run() -> Run {
        let mut curves = Curves::default();
        for step in 1..=40u32 {
            curves.add(&format!(
                r#"{{"step":{step},"epoch":0,"loss":1.5,"nll":{},"lr":5e-5,"grad_norm":2.5,"tokens":100,"tokens_per_s":200.0}}"#,
                4.0 - f64::from(step) / 20.0
            ));
            if step % 10 == 0 {
                curves.add(&format!(
                    r#"{{"event":"evaluation","step":{step},"valid_nll":{},"valid_perplexity":12.0,"valid_mauve":0.{step},"best":true}}"#,
                    4.25 - f64::from(step) / 20.0
                ));
            }
        }
        Run {
            folder: "runs/a".into(),
            state: RunState::Running { process: Some(7) },
            model: Some("gpt2".into()),
            objective: Some("mixce:eta=0.1".into()),
            total_steps: Some(100),
            last_step: curves.last().cloned(),
            last_evaluation: curves.evaluations.last().cloned(),
            best: curves.best().cloned(),
            memory_bytes: Some(1_500_000_000),
            seconds_left: Some(3_700.0),
            quiet_seconds: Some(2.0),
            unreadable_lines: 1,
            samples: vec![Sample { prompt: "The\u{1b}[2J mill".into(), text: "w\n".repeat(300) }],
            curves: Arc::new(curves),
        }
    }

    #[test]
    fn everything_is_told_and_nothing_obeyed() {
        let told = text(&Snapshot::Run(Box::new(run())));
        for words in [
            "run            runs/a\n",
            "state          running (process 7)\n",
            "step           40 of 100 (40 %), epoch 1\n",
            "time left      1 h 1 min without evaluations\n",
            "learning rate  5.000e-5\n",
            "speed          200 tokens/s\n",
            "memory         1.5 GB\n",
            "development    nll 2.2500 (step 40)\n",
            "MAUVE          0.4000\n",
            "unreadable     1 lines of metrics.jsonl\n",
            "\nThe\\u{1b}[2J mill | w\\nw",
        ] {
            assert!(told.contains(words), "{words}\n{told}");
        }
        assert!(!told.contains('\u{1b}'));
    }

    #[test]
    fn a_sweep_is_a_grid_with_its_failures() {
        let root = tempfile::tempdir().unwrap();
        crate::sweep::tests::write(root.path());
        let told = text(&crate::Watch::open(root.path()).unwrap().poll());
        for words in [
            "1 of 5 done, 0 running, 1 failed",
            "\nwiki, gpt2, length 64\n  mle  seed 1: 0.6250, seed 2: -\n  mixce:eta=0.1  seed 1: FAILED, seed 2: -\n",
            "failed: out of\\u{1b}[2J memory\n",
            "chosen: wiki, gpt2, length 64: mle by development mauve (0.6250), a tie with mixce:eta=0.1\n",
        ] {
            assert!(told.contains(words), "{words}\n{told}");
        }
    }

    #[test]
    fn times_have_two_units() {
        let told = [0.4, 59.6, 3599.0, 7260.0, 100_000.0].map(duration);
        assert_eq!(told, ["0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min", "1 d 3 h"]);
    }
}
