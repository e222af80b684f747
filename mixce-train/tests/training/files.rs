//! From files to files: text, tokenizer and `config.json` in, a run folder with an exported model out.
use mixce_base::Hint as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use mixce_core::objective::Mle;
use mixce_lm::{ScoringOptions, Tokenizer, checkpoint};
use mixce_train::config::{DataFiles, Every, Pack, TrainConfig};
use mixce_train::data::{Input, ReadSettings};
use mixce_train::evaluate::evaluate;
use mixce_train::prepare::{Prepared, Sources, examples, launch, prepare};
use mixce_train::room::Room;
use mixce_train::run_folder::Provenance;
use mixce_train::{Error, Result};

use crate::common::settings;

struct Files {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..40).map(|i| format!("the {} cat sat on mat {}\n", i % 7, i % 5)).collect();
        std::fs::write(folder.path().join("train.txt"), text + "\n").unwrap();
        std::fs::write(folder.path().join("valid.jsonl"), "{\"text\":\"the 3 cat sat on mat 2\"}\n").unwrap();
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizer");
        let size = Tokenizer::from_dir(&tokenizer).unwrap().vocab_size();
        let config = format!(
            r#"{{"model_type":"gpt2","vocab_size":{size},"n_positions":32,"n_embd":16,"n_layer":1,"n_head":2}}"#
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Self { folder, sources: Sources { model: None, tokenizer } }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> TrainConfig {
        TrainConfig {
            from_config: Some(self.path("config.json")),
            tokenizer: Some("t".into()),
            train: Some(self.path("train.txt").into()),
            valid: Some(self.path("valid.jsonl").into()),
            out: Some(self.path("run")),
            cache_dir: Some(self.path("cache")),
            max_length: Some(16),
            epochs: 1,
            eval_every: Every::Steps(2),
            ..settings()
        }
    }

    fn prepare(&self, config: &TrainConfig) -> Result<Prepared> {
        let stop = AtomicBool::new(false);
        prepare(config, &self.sources, &[&mixce_gpt2::FAMILY], &Device::Cpu, Room::Require, &stop)
    }
}

fn start(config: &TrainConfig, prepared: Prepared) -> Result<mixce_train::trainer::TrainOutcome> {
    launch(config, prepared, &Provenance::of(&Device::Cpu), &mut [], &AtomicBool::new(false))
}

#[test]
fn text_in_exported_model_out() {
    let files = Files::new();
    let config = files.config();
    let prepared = files.prepare(&config).unwrap();
    assert_eq!((prepared.train.len(), prepared.train.store().counts().empty), (40, 1));
    let outcome = start(&config, prepared).unwrap();

    // The exported best model gives the development NLL that chose it, through its own tokenizer.
    let best = outcome.best.unwrap();
    let loaded = checkpoint::load(&best.path, &[&mixce_gpt2::FAMILY], &Device::Cpu).unwrap();
    let tokenizer = Tokenizer::from_dir(&best.path).unwrap();
    let model = loaded.config.build(loaded.parameters).unwrap();
    let valid = Input::open(&[files.path("valid.jsonl")], ReadSettings::default()).unwrap();
    let valid = examples(&valid, &tokenizer, &config, &AtomicBool::new(false)).unwrap();
    let evaluation = evaluate(&*model, &valid, &Mle, ScoringOptions::default(), &mut |_| Ok(())).unwrap();
    assert!((evaluation.nll - best.valid_nll).abs() < 1e-9, "{evaluation:?} {best:?}");

    let run = files.path("run");
    for name in ["run.toml", "metrics.jsonl", "best/README.md", "final/model.safetensors", "final/vocab.json"]
    {
        assert!(run.join(name).is_file(), "{name}");
    }
    let resolved = config.resolved_for(model.spec().positions, Some(&tokenizer));
    assert_eq!(resolved.add_bos, Some(false));
    assert_eq!(TrainConfig::from_toml_file(&run.join("run.toml")).unwrap(), resolved);
    let entries = std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let entries: Vec<String> = entries.collect();
    assert!(entries.iter().any(|e| e.starts_with("events.out.tfevents.")));
    assert!(entries.iter().all(|e| !e.ends_with(".tmp")), "{entries:?}");
}

#[test]
fn a_run_folder_in_use_is_refused_untouched() {
    let files = Files::new();
    let config = files.config();
    let prepared = files.prepare(&config).unwrap();
    std::fs::create_dir(files.path("run")).unwrap();
    std::fs::write(files.path("run").join("precious"), "x").unwrap();
    let error = start(&config, prepared).unwrap_err();
    assert!(matches!(error, Error::OutputNotEmpty { .. }), "{error}");
    assert_eq!(std::fs::read_dir(files.path("run")).unwrap().count(), 1);
}

#[test]
fn lengths_beyond_the_models_positions_name_the_field() {
    let files = Files::new();
    for (config, field) in [
        (TrainConfig { max_length: Some(33), ..files.config() }, "config.max_length = 33"),
        (TrainConfig { block_size: 40, ..files.config() }, "config.block_size = 40"),
    ] {
        let error = files.prepare(&config).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert!(error.hint().unwrap().contains("32"));
    }
}

#[test]
fn bad_text_is_found_before_anything_is_written() {
    let files = Files::new();
    std::fs::write(files.path("train.txt"), b"fine\nbad \xff\n").unwrap();
    let error = files.prepare(&files.config()).unwrap_err();
    assert!(error.to_string().contains("train.txt` line 2, byte 5"), "{error}");
    let one = TrainConfig { skip_bad_rows: 1, ..files.config() };
    assert_eq!(files.prepare(&one).unwrap().train.store().counts().bad, 1);
    std::fs::write(files.path("train.txt"), b"").unwrap();
    let error = files.prepare(&files.config()).unwrap_err();
    assert!(matches!(error, Error::NoDocuments { .. }), "{error}");
    assert!(!files.path("run").exists());
}

#[test]
fn blocks_from_files_hold_every_token() {
    let files = Files::new();
    let config = TrainConfig { block_size: 32, ..files.config() };
    let prepared = files.prepare(&config).unwrap();
    let tokens = prepared.train.store().counts().tokens;
    assert_eq!(prepared.train.len() as u64, tokens.div_ceil(32) - u64::from(tokens % 32 == 1));
    start(&config, prepared).unwrap();
}

#[test]
fn confined_blocks_train_on_fewer_targets_and_never_across_documents() {
    let files = Files::new();
    let concatenated = TrainConfig { pack: Some(Pack::Concat), block_size: 32, ..files.config() };
    let confined = TrainConfig { confine_attention: true, ..concatenated.clone() };
    let (concatenated, prepared) =
        (files.prepare(&concatenated).unwrap().train, files.prepare(&confined).unwrap());
    assert_eq!(prepared.train.len(), concatenated.len());
    assert!(prepared.train.targets() < concatenated.targets());
    let eos = prepared.tokenizer.eos_id().unwrap();
    for piece in (0..prepared.train.len()).flat_map(|i| prepared.train.pieces(i)) {
        assert!(!piece[..piece.len() - 1].contains(&eos), "EOS ends a piece: {piece:?}");
    }
    start(&confined, prepared).unwrap();
}

#[test]
fn every_format_gives_the_same_tokens() {
    let files = Files::new();
    let texts = ["the 3 cat sat on mat 2", "a \"quoted\", mat", "sat\ton", "on ünïcode mat"];
    let quote = |t: &str| format!("\"{}\"", t.replace('"', "\"\""));
    let lines = |line: &dyn Fn(&str) -> String| texts.iter().map(|t| line(t) + "\n").collect::<String>();
    let write = |name: &str, text: String| std::fs::write(files.path(name), text).unwrap();
    write("a.txt", lines(&|t| t.to_owned()));
    write("b.jsonl", lines(&|t| serde_json::json!({"n": 1, "text": t}).to_string()));
    write("c.csv", format!("n,text\n{}", lines(&|t| format!("1,{}", quote(t)))));
    write("d.tsv", format!("text\n{}", lines(&|t| quote(t))));
    write("e.log", texts.join("\n<|end|>\n"));
    let tokens = |name: &str, separator: Option<&str>, cache_dir: Option<PathBuf>| {
        let config = TrainConfig {
            train: Some(files.path(name).into()),
            document_separator: separator.map(str::to_owned),
            cache_dir,
            ..files.config()
        };
        let store = files.prepare(&config).unwrap().train;
        (0..store.len()).map(|i| store.get(i)).collect::<Vec<_>>()
    };
    let want = tokens("a.txt", None, None);
    assert_eq!(want.len(), texts.len());
    for (name, separator) in [("b.jsonl", None), ("c.csv", None), ("d.tsv", None), ("e.log", Some("<|end|>"))]
    {
        assert_eq!(tokens(name, separator, None), want, "{name}");
        assert_eq!(tokens(name, separator, Some(files.path("cache"))), want, "{name}, cached");
    }
    // Several files are one after another, here by a pattern.
    assert_eq!(tokens("[ab].*", None, None), [want.clone(), want].concat());
}

#[test]
fn standard_input_cannot_be_both_files() {
    let files = Files::new();
    let both = TrainConfig { train: Some("-".into()), valid: Some(DataFiles::from("-")), ..files.config() };
    assert!(files.prepare(&both).unwrap_err().to_string().contains("only once"));
}

#[test]
fn a_refused_resume_leaves_the_run_as_it_was() {
    let files = Files::new();
    let config = files.config();
    let prepared = files.prepare(&config).unwrap();
    start(&config, prepared).unwrap();
    let run_toml = std::fs::read(files.path("run/run.toml")).unwrap();
    let changed = TrainConfig { lr: 1e-9, resume: Some("auto".into()), ..files.config() };
    let error = start(&changed, files.prepare(&config).unwrap()).unwrap_err();
    assert!(matches!(error, Error::ResumeMismatch { .. }), "{error}");
    assert_eq!(std::fs::read(files.path("run/run.toml")).unwrap(), run_toml);

    // Without the cache the tokens are the same, and so is the run.
    let same = TrainConfig { cache_dir: None, epochs: 2, resume: Some("auto".into()), ..files.config() };
    let outcome = start(&same, files.prepare(&same).unwrap()).unwrap();
    assert_eq!(outcome.steps, 14);
    // Its run.toml repeats it, from the first step.
    let repeated = TrainConfig::from_toml_file(&files.path("run/run.toml")).unwrap();
    assert_eq!((repeated.epochs, repeated.resume), (2, None));
}
