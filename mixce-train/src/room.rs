//! Whether a run fits into memory and on the disk, before it begins.
use std::fs;
use std::path::Path;

use candle_core::Device;
use mixce_lm::ModelConfig;
use mixce_lm::memory::PassShape;

use crate::config::{Every, TrainConfig};
use crate::data::{Batcher, Examples};
use crate::distributed::Launched;
use crate::error::{Error, Result};
use crate::plan::{StepMemory, step_memory};

/// What to do if a run does not seem to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Refuse it.
    Require,
    /// Warn.
    Warn,
}

/// Bytes of a model's files beside its weights, tokenizer and model card.
const OTHER_FILES: u64 = 8 << 20;

/// Checks that a run fits: on the CPU into the memory that is available, by [`step_memory`]'s estimate; on the disk of its folder the checkpoints
/// that it keeps and its models.
///
/// What the system does not tell (memory outside Linux, the memory of a GPU, disks outside Unix) is not checked.
///
/// # Errors
/// [`Error::NoRoom`], unless `room` is [`Room::Warn`]; errors of the batches.
pub fn check(
    room: Room,
    config: &TrainConfig,
    model: &dyn ModelConfig,
    train: &Examples,
    device: &Device,
) -> Result<()> {
    let mut shortages = Vec::new();
    if let (true, Some(available)) = (device.is_cpu(), available_memory()) {
        let ranks = Launched::of_environment()?.map_or(1, |launched| launched.size);
        let needed = memory_of_rank(config, model, train, device, ranks).peak;
        shortages.push(Error::NoRoom { what: "memory".into(), needed, available, is_memory: true });
    }
    if let Some(out) = &config.out
        && let Some(available) = free_disk(out)
    {
        let needed = disk_bytes(config, model, train)?.saturating_sub(stored_bytes(out));
        let what = format!("space on the disk of `{}`", out.display());
        shortages.push(Error::NoRoom { what, needed, available, is_memory: false });
    }
    let is_short =
        |error: &Error| matches!(error, Error::NoRoom { needed, available, .. } if needed > available);
    match (shortages.into_iter().find(is_short), room) {
        (None, _) => Ok(()),
        (Some(shortage), Room::Require) => Err(shortage),
        (Some(shortage), Room::Warn) => {
            tracing::warn!("{shortage}");
            Ok(())
        }
    }
}

/// The memory of the largest microbatch, on the rank with the most documents.
#[must_use]
pub fn memory_of_rank(
    config: &TrainConfig,
    model: &dyn ModelConfig,
    train: &Examples,
    device: &Device,
    ranks: usize,
) -> StepMemory {
    let documents = config.batch_size.min(train.len()).div_ceil(ranks.max(1));
    // The last token of a document is only a target.
    let longest = train.longest().saturating_sub(1);
    let shape = PassShape {
        tokens: documents.saturating_mul(longest),
        longest,
        recompute: config.activation_checkpointing,
        on_cuda: device.is_cuda(),
        precision: config.precision.into(),
    };
    let memory = step_memory(model, shape).exchanging(ranks, config.grad_reduce_dtype, shape.on_cuda);
    if config.shard_optimizer { memory.sharded(ranks) } else { memory }
}

/// The most that a run folder holds at any time: weights and both moments in each checkpoint, with one more while it is written; the last model,
/// and the best one twice while it is replaced.
fn disk_bytes(config: &TrainConfig, model: &dyn ModelConfig, train: &Examples) -> Result<u64> {
    let steps_per_epoch = Batcher::new(train, config.batcher())?.steps_per_epoch();
    let steps = config.total_steps(steps_per_epoch);
    let planned = match config.save_every {
        Every::Epoch => steps.div_ceil(steps_per_epoch.max(1)),
        Every::Steps(n) => steps.div_ceil(n.max(1)),
        Every::Never => 1,
    };
    let kept = (config.keep_last as u64).saturating_add(1).min(planned);
    let weights = 4 * u128::from(model.spec().parameters);
    let models = if config.valid.is_some() { 3 } else { 1 };
    let bytes = u128::from(kept) * 3 * weights + models * (weights + u128::from(OTHER_FILES));
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Bytes of the files below a folder; what cannot be read counts as nothing.
fn stored_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => stored_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Free bytes of the disk of a folder, or of its nearest existing ancestor.
#[cfg(unix)]
fn free_disk(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let existing = folder.ancestors().find(|path| path.exists())?;
    let disk = nix::sys::statvfs::statvfs(existing).ok()?;
    // The types of both numbers differ between systems.
    (disk.blocks_available() as u64).checked_mul(disk.fragment_size() as u64)
}

#[cfg(not(unix))]
fn free_disk(_: &Path) -> Option<u64> {
    None
}

/// Memory that this process may still use: of the machine, and of each control group that it is in.
fn available_memory() -> Option<u64> {
    let machine = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?.checked_mul(1024)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(machine.min(group_memory(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX)))
}

/// The least that the control groups of a `/proc/PID/cgroup` leave, in either version.
fn group_memory(root: &Path, groups: &str) -> Option<u64> {
    let left = |folder: &Path, [limit, usage]: [&str; 2]| -> Option<u64> {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        // Cached pages of files are given back.
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let used = number(usage)?.saturating_sub(field(&stat, "inactive_file").unwrap_or(0));
        Some(number(limit)?.saturating_sub(used))
    };
    let of_line = |line: &str| -> Option<u64> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, names) = match controllers {
            "" => (root.to_owned(), ["memory.max", "memory.current"]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes"])
            }
            _ => return None,
        };
        let above = Path::new(path).ancestors().map(|path| root.join(path));
        above.filter_map(|folder| left(&folder, names)).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// The number after a key at the beginning of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t']))?;
    value.split_whitespace().next()?.parse().ok()
}

/// A number of bytes for a message.
pub(crate) fn in_words(bytes: u64) -> String {
    match bytes as f64 {
        bytes @ ..1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes @ ..1e12 => format!("{:.1} GB", bytes / 1e9),
        bytes => format!("{:.1} TB", bytes / 1e12),
    }
}

#[cfg(test)]
mod tests {
    use mixce_gpt2::Gpt2Config;

    use super::*;
    use crate::data::TokenStore;

    fn examples() -> Examples {
        Examples::documents(TokenStore::from_documents((0..20u32).map(|i| vec![i, 1, 2, 3])))
    }

    #[test]
    fn the_disk_holds_what_is_kept_and_what_is_being_written() {
        let (model, train) = (Gpt2Config::gpt2_small(), examples());
        let weights = 4 * 124_439_808;
        let bytes = |config: TrainConfig| disk_bytes(&config, &model, &train).unwrap();
        // 20 documents in steps of 4: 5 steps an epoch.
        let config =
            TrainConfig { batch_size: 2, grad_accum: 2, epochs: 4, keep_last: 2, ..TrainConfig::default() };
        assert_eq!(bytes(config.clone()), 3 * 3 * weights + weights + OTHER_FILES);
        let valid = TrainConfig { valid: Some("v.txt".into()), ..config.clone() };
        assert_eq!(bytes(valid), 3 * 3 * weights + 3 * (weights + OTHER_FILES));
        let once = TrainConfig { save_every: Every::Never, ..config.clone() };
        assert_eq!(bytes(once), 3 * weights + weights + OTHER_FILES);
        let often = TrainConfig { save_every: Every::Steps(1), keep_last: 100, ..config };
        assert_eq!(bytes(often), 20 * 3 * weights + weights + OTHER_FILES);
    }

    #[test]
    fn a_model_that_fits_nowhere_is_refused() {
        let train = examples();
        let model = Gpt2Config { n_embd: 1 << 16, n_layer: 100, n_head: 16, ..Gpt2Config::gpt2_small() };
        let config = TrainConfig { batch_size: 2, ..TrainConfig::default() };
        let checked = |room| check(room, &config, &model, &train, &Device::Cpu);
        if available_memory().is_some() {
            let error = checked(Room::Require).unwrap_err().to_string();
            assert!(error.contains("TB of memory, but only"), "{error}");
        }
        checked(Room::Warn).unwrap();
        let small =
            Gpt2Config { n_embd: 4, n_layer: 1, n_head: 1, vocab_size: 30, ..Gpt2Config::gpt2_small() };
        check(Room::Require, &config, &small, &train, &Device::Cpu).unwrap();
    }

    #[test]
    fn control_groups_of_both_versions_limit_memory() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(group_memory(root.path(), "0::/a/b\n"), None);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 3\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "500\n");
        assert_eq!(group_memory(root.path(), "0::/a/b\n"), Some(400));
        write("memory/memory.limit_in_bytes", "900\n");
        write("memory/memory.usage_in_bytes", "650\n");
        assert_eq!(group_memory(root.path(), "3:cpu:/\n4:memory,x:/docker/1\n0::/a\n"), Some(250));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells_both() {
        assert!(available_memory().unwrap() > 1 << 20);
        assert!(free_disk(Path::new("not/there/yet")).unwrap() > 0);
        assert_eq!(field("MemTotal:  12 kB\nMemAvailable:   7 kB\n", "MemAvailable:"), Some(7));
    }
}
