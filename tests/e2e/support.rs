//! A folder with a corpus, a small model and the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candle_core::{DType, Device};
use mixce_gpt2::Gpt2Config;
use mixce_lm::export::{ExportRequest, NameStyle, TrainingFacts, export};
use mixce_lm::{ModelConfig, Parameters, Tokenizer};
use serde_json::Value;
use tempfile::TempDir;

use crate::server::HubServer;

/// The committed fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Flags for a very short run on [`World::corpus`] with eight steps per epoch.
pub(crate) const SMALL: &str = "--batch-size 4 --grad-accum 2 --max-length 60 --lr 3e-3 --log-every 1";

/// A user's folder.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    /// A folder with `train.txt` (64 documents), `valid.txt` (12) and a model in `model`.
    pub(crate) fn new() -> Self {
        Self::of(&small_config())
    }

    /// The same with a model of this configuration, which is in `config.json`.
    pub(crate) fn of(config: &dyn ModelConfig) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.write("train.txt", corpus(64, 1));
        world.write("valid.txt", corpus(12, 2));
        world.write("config.json", config.to_json());
        world.model("model", config);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The JSON objects of a file, one per line.
    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        rows(&self.text(name))
    }

    /// A model with random weights and the fixtures' tokenizer.
    pub(crate) fn model(&self, name: &str, config: &dyn ModelConfig) {
        let parameters = Parameters::random(config, 7, &Device::Cpu).unwrap();
        let tokenizer = Tokenizer::from_dir(&fixtures().join("tokenizer")).unwrap();
        let request = ExportRequest {
            config,
            parameters: &parameters,
            tokenizer: Some(&tokenizer),
            facts: &TrainingFacts::default(),
            names: NameStyle::HuggingFace,
            dtype: DType::F32,
        };
        export(&self.path(name), &request).unwrap();
    }

    /// The program with these arguments; `{tokenizer}` and `{fixtures}` are replaced by their folders. It does not inherit this process's
    /// environment, writes nothing outside the folder, and asks no hub.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixce-e2e"));
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("RUST_BACKTRACE", "0")
            .env("HF_HUB_OFFLINE", "1");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let fixtures = fixtures();
        let fixtures = fixtures.to_str().expect("a UTF-8 path");
        let words = line.split_whitespace().map(|word| {
            word.replace("{tokenizer}", &format!("{fixtures}/tokenizer")).replace("{fixtures}", fixtures)
        });
        command.args(words).current_dir(self.folder.path());
        command
    }

    /// The same with the hub at `server`.
    pub(crate) fn command_at(&self, server: &HubServer, line: &str) -> Command {
        let mut command = self.command(line);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", server.endpoint());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        Outcome::of(self.command(line).output().unwrap(), line)
    }

    /// Runs with the hub at `server` and further environment variables to the end.
    pub(crate) fn run_at(&self, server: &HubServer, line: &str, variables: &[(&str, &str)]) -> Outcome {
        Outcome::of(self.command_at(server, line).envs(variables.iter().copied()).output().unwrap(), line)
    }

    /// Every file below the folder with its bytes.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files.insert(path.clone(), Vec::new());
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.insert(path, bytes);
                }
            }
        }
        files
    }
}

/// The outcome of a run of the program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) line: String,
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output, line: &str) -> Self {
        Self {
            line: line.to_owned(),
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same after checking that it succeeded.
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.status, Some(0), "`mixce {}`\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// The JSON objects on stdout, after checking that it succeeded.
    pub(crate) fn rows(self) -> Vec<Value> {
        rows(&self.success().stdout)
    }

    /// The only JSON object on stdout, after checking that it succeeded.
    pub(crate) fn row(self) -> Value {
        let mut rows = self.rows();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }

    /// Checks that it failed with one error that contains these words: status 2, nothing on stdout, one `error:` line.
    pub(crate) fn refused(&self, words: &[&str]) {
        let told = format!("`mixce {}`\n{}{}", self.line, self.stdout, self.stderr);
        assert_eq!(self.status, Some(2), "{told}");
        assert_eq!(self.stdout, "", "{told}");
        assert_eq!(self.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{told}");
        for word in words {
            assert!(self.stderr.contains(word), "expected {word:?}\n{told}");
        }
        for word in ["panicked", "ERROR", "retry"] {
            assert!(!self.stderr.contains(word), "{told}");
        }
    }
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// A number under a key.
pub(crate) fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {row}"))
}

/// Rows without the times, which differ from run to run.
pub(crate) fn without_times(mut rows: Vec<Value>) -> Vec<Value> {
    for row in &mut rows {
        if let Some(row) = row.as_object_mut() {
            row.remove("tokens_per_s");
        }
    }
    rows
}

/// A model of 13 648 parameters for the fixtures' tokenizer.
pub(crate) fn small_config() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 377,
        n_positions: 64,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        // Far from uniform, so that samples and losses distinguish models.
        initializer_range: 0.3,
        bos_token_id: Some(376),
        eos_token_id: Some(376),
        ..Gpt2Config::default()
    }
}

/// Sentences of three to nine words.
pub(crate) fn corpus(documents: u64, seed: u64) -> String {
    const WORDS: [&str; 12] = [
        "the", "river", "mill", "ran", "old", "stone", "bridge", "water", "wheel", "turned", "slowly",
        "under",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut text = String::new();
    for _ in 0..documents {
        let words: Vec<&str> = (0..3 + below(7)).map(|_| WORDS[below(12) as usize]).collect();
        text += &words.join(" ");
        text += ".\n";
    }
    text
}

/// A free port of this machine.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A command as process `rank` of `size` on this machine, as `torchrun` starts it.
pub(crate) fn as_rank(mut command: Command, rank: usize, size: usize, port: u16) -> Command {
    let (rank, size) = (rank.to_string(), size.to_string());
    command.envs([
        ("RANK", &rank),
        ("LOCAL_RANK", &rank),
        ("WORLD_SIZE", &size),
        ("LOCAL_WORLD_SIZE", &size),
    ]);
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command
}

/// What all processes of a run have done that `command` makes, in the order of ranks.
pub(crate) fn torchrun(size: usize, line: &str, command: impl Fn() -> Command) -> Vec<Outcome> {
    let port = free_port();
    let start = |rank| {
        let mut command = as_rank(command(), rank, size, port);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..size).map(start).collect();
    // A run's processes write too little for a pipe to fill.
    children.into_iter().map(|child| Outcome::of(child.wait_with_output().unwrap(), line)).collect()
}

/// Checks that the steps of a run on several processes are those of one, up to rounding.
pub(crate) fn assert_follow(rows: &[Value], alone: &[Value], tolerance: f64) {
    assert_eq!(rows.len(), alone.len());
    for (row, alone) in rows.iter().zip(alone).filter(|(row, _)| row["event"].is_null()) {
        assert_eq!((&row["step"], &row["tokens"]), (&alone["step"], &alone["tokens"]));
        for key in ["loss", "nll", "grad_norm"] {
            let (a, b) = (number(row, key), number(alone, key));
            assert!((a - b).abs() <= tolerance * b, "`{key}`: {row} {alone}");
        }
    }
}
