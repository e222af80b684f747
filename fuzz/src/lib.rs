//! What each fuzz target does with its bytes: the same as the program with a file of them. A panic, an abort or an endless loop is a finding; an
//! error is not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use mixce_data::{Input, ReadSettings};
use mixce_lm::{Family, Tokenizer};
use tempfile::TempDir;

static FAMILIES: [&Family; 2] = [&mixce_gpt2::FAMILY, &mixce_llama::FAMILY];

/// A folder with one file.
fn folder(name: &str, bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(name), bytes).expect("a file");
    folder
}

/// `config.json` of a model.
pub fn config(bytes: &[u8]) {
    let folder = folder("config.json", bytes);
    let _ = mixce_lm::checkpoint::config(folder.path(), &FAMILIES);
}

/// Lists and loads the weights in a folder, for the model of the PyTorch fixtures.
fn weights(folder: &TempDir) {
    let config = include_bytes!("../../tests/fixtures/gpt2/formats/bin_transformer/config.json");
    fs::write(folder.path().join("config.json"), config).expect("a file");
    let _ = mixce_lm::checkpoint::list(folder.path());
    let _ = mixce_lm::checkpoint::load(folder.path(), &FAMILIES, &candle_core::Device::Cpu);
}

/// `model.safetensors`.
pub fn safetensors(bytes: &[u8]) {
    weights(&folder("model.safetensors", bytes));
}

/// A GGUF file: weights, configuration and tokenizer.
pub fn gguf(bytes: &[u8]) {
    let folder = folder("model.gguf", bytes);
    let _ = mixce_lm::checkpoint::list(folder.path());
    let _ = mixce_lm::checkpoint::load(folder.path(), &FAMILIES, &candle_core::Device::Cpu);
    use_tokenizer(folder.path());
}

/// `model.safetensors.index.json`.
pub fn safetensors_index(bytes: &[u8]) {
    let folder = folder("model.safetensors.index.json", bytes);
    let _ = mixce_lm::checkpoint::list(folder.path());
}

/// A `pytorch_model.bin`, and the pickle inside one that is a zip archive.
pub fn pickle(bytes: &[u8]) {
    weights(&folder("pytorch_model.bin", bytes));
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).expect("an entry");
    archive.write_all(bytes).expect("its bytes");
    weights(&folder("pytorch_model.bin", &archive.finish().expect("an archive").into_inner()));
}

/// `tokenizer.json`, used on a few texts.
pub fn tokenizer(bytes: &[u8]) {
    use_tokenizer(folder("tokenizer.json", bytes).path());
}

fn use_tokenizer(folder: &Path) {
    let Ok(tokenizer) = Tokenizer::from_dir(folder) else { return };
    for text in ["", "a", "The mill,  the river.\n", "\u{fdfa}\u{301}\u{1f642}"] {
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids);
        }
        let _ = tokenizer.encode_in_template(text, 8);
    }
}

/// A training configuration.
pub fn toml(bytes: &[u8]) {
    let folder = folder("run.toml", bytes);
    let _ = mixce_train::config::TrainConfig::from_toml_file(&folder.path().join("run.toml"));
}

fn documents(name: &str, bytes: &[u8]) {
    let folder = folder(name, bytes);
    let settings = ReadSettings { skip_bad_rows: u64::MAX, ..ReadSettings::default() };
    if let Ok(input) = Input::open(&[folder.path().join(name)], settings) {
        input.documents().for_each(drop);
    }
}

/// JSON lines, also compressed.
pub fn jsonl(bytes: &[u8]) {
    documents("a.jsonl", bytes);
}

/// Comma-separated values, also compressed.
pub fn csv(bytes: &[u8]) {
    documents("a.csv", bytes);
}

/// Parquet.
pub fn parquet(bytes: &[u8]) {
    documents("a.parquet", bytes);
}

/// A matrix of transition probabilities.
pub fn csv_matrix(bytes: &[u8]) {
    let folder = folder("p.csv", bytes);
    let _ = mixce_synthetic::bigram::World::from_csv(&folder.path().join("p.csv"));
}

/// Features as a NumPy array.
pub fn npy(bytes: &[u8]) {
    let folder = folder("f.npy", bytes);
    let _ = mixce_eval::features::Features::read(&folder.path().join("f.npy"));
}

/// The memory-mapped token cache, as it is and with a valid checksum.
pub fn token_cache(bytes: &[u8]) {
    read_token_cache(bytes);
    if let Some((head, rest)) = bytes.split_at_checked(16) {
        let checksum = crc32fast::hash(rest).to_le_bytes();
        read_token_cache(&[&head[..12], &checksum, rest].concat());
    }
}

fn read_token_cache(bytes: &[u8]) {
    let folder = folder("a.tokens", bytes);
    let Ok(store) = mixce_train::data::cache::open(&folder.path().join("a.tokens")) else { return };
    for document in 0..store.len() {
        let _ = store.tokens(store.range(document));
    }
}

/// A checkpoint: the first byte picks the file that the rest replaces. Unless that is the manifest, it lists the digests of the new files, so that
/// their content is reached.
pub fn state_manifest(bytes: &[u8]) {
    static INTACT: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let name = ["state.json", "COMPLETE", "model.safetensors", "optimizer.safetensors"][usize::from(kind % 4)];
    let mut files = INTACT.get_or_init(checkpoint).clone();
    files.insert(name.to_owned(), rest.to_vec());
    if name != "COMPLETE" {
        let manifest = manifest(&files);
        files.insert("COMPLETE".to_owned(), manifest);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in &files {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let _ = mixce_train::checkpoint::load(folder.path());
}

/// The files of a small checkpoint of step 2.
fn checkpoint() -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = mixce_train::checkpoint::TrainState {
        version: mixce_train::checkpoint::STATE_VERSION,
        step: 2,
        position: mixce_train::data::Position { epoch: 0, step_in_epoch: 2 },
        best: None,
        evaluations_without_improvement: 0,
        evaluation_due: false,
        grad_norms: vec![1.0],
        train_fingerprint: "a".to_owned(),
        valid_fingerprint: None,
        total_steps: 4,
        config: mixce_train::config::TrainConfig::default(),
    };
    let tensor = candle_core::Tensor::new(&[1f32, 2.0], &candle_core::Device::Cpu).expect("a tensor");
    let tensors = || vec![("p".to_owned(), tensor.clone())];
    let saved = mixce_train::checkpoint::save(folder.path(), &state, tensors(), tensors(), &[("config.json", b"{}")]);
    read_all(&saved.expect("a checkpoint"))
}

fn read_all(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file"))
        })
        .collect()
}

fn manifest(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    use mixce_base::digest::{Digest as _, Sha256, hex};
    let entry = |(name, bytes): (&String, &Vec<u8>)| {
        format!("\"{name}\":{{\"bytes\":{},\"sha256\":\"{}\"}}", bytes.len(), hex(&Sha256::digest(bytes)))
    };
    let entries: Vec<String> = files.iter().filter(|(name, _)| *name != "COMPLETE").map(entry).collect();
    format!("{{\"version\":1,\"step\":2,\"files\":{{{}}}}}", entries.join(",")).into_bytes()
}

/// Answers of the hub: the bytes, to every request. The first byte picks whether they are a body or the whole answer.
pub fn hub_answer(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let answer = match kind % 2 {
        0 => rest.to_vec(),
        _ => [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len())
                .as_bytes(),
            rest,
        ]
        .concat(),
    };
    let home = tempfile::tempdir().expect("a temporary folder");
    let endpoint = serve(answer);
    let lookup = |name: &str| match name {
        "HF_HOME" => home.path().to_str().map(str::to_owned),
        "HF_ENDPOINT" => Some(endpoint.clone()),
        _ => None,
    };
    let Ok(mut environment) = mixce_hub::HubEnvironment::from_lookup(lookup) else { return };
    environment.retries.attempts = 1;
    environment.retries.first_delay = Duration::ZERO;
    let id: mixce_hub::ModelId = "owner/model".parse().expect("a model id");
    if let Ok(hub) = mixce_hub::Hub::new(environment) {
        let _ = hub.fetch_model(&id, &mut mixce_hub::NoProgress);
    }
}

/// The address of a server that gives the latest answer to everything.
fn serve(answer: Vec<u8>) -> String {
    static LATEST: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
    static ADDRESS: OnceLock<String> = OnceLock::new();
    *LATEST.lock().expect("no panic while it is held") = answer;
    let start = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let mut request = [0; 4096];
                // Whatever was asked.
                let _ = stream.read(&mut request);
                let answer = LATEST.lock().expect("no panic while it is held").clone();
                let _ = stream.write_all(&answer);
            }
        });
        format!("http://{address}")
    };
    ADDRESS.get_or_init(start).clone()
}
