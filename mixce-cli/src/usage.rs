//! Hints for conflicting or missing flags. clap reports the conflict, but not what to do instead.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Two flags of a subcommand, one of which excludes or requires the other, and what to do.
struct Pair(&'static str, &'static str, &'static str);

const PAIRS: [Pair; 40] = [
    Pair("--quiet", "--verbose", "`-q` shows only errors, `-v` more than warnings"),
    // generate
    Pair(
        "--max-new-tokens",
        "--documents",
        "with `--documents` the length of a sample is `--max-length`, its prompt included",
    ),
    Pair("--max-length", "--documents", "the length of a prompt's continuation is `--max-new-tokens`"),
    Pair(
        "--overwrite",
        "--documents",
        "samples of `--documents` are never overwritten: continue with `--resume`, or choose another `--out` or `--name`",
    ),
    Pair(
        "--resume",
        "--documents",
        "only samples of `--documents` can be resumed; replace the file of other samples with `--overwrite`",
    ),
    Pair("--name", "--documents", "without `--documents` there is only one file, `--out`"),
    Pair("--compat", "--documents", "the authors' scripts continue documents: use `--documents`"),
    Pair("--documents", "--out", "`--out` is the folder for the samples of `--documents`"),
    Pair("--greedy", "--temperature", "`--greedy` does not sample: leave it out to sample"),
    Pair("--greedy", "--top-k", "`--greedy` does not sample: leave it out to sample"),
    Pair("--greedy", "--top-p", "`--greedy` does not sample: leave it out to sample"),
    // evaluate
    Pair("--prompt-length", "--block-size", "blocks have no prompts: leave out `--block-size`"),
    Pair("--prompt-length", "--confine-attention", "blocks have no prompts: leave out `--confine-attention`"),
    Pair(
        "--confine-attention",
        "--block-size",
        "without `--block-size` attention is always confined to a document",
    ),
    Pair(
        "--batch-size",
        "--compat",
        "it applies only to `--compat authors`; use `--batch-tokens` to limit memory",
    ),
    // data prepare
    Pair("--source", "--dataset", "`--source` is your own copy, `--dataset` one on the hub"),
    Pair("--split", "--source", "for your own files, name the one to read: `--source FILE`"),
    Pair("--split", "--dataset", "`--split` is for a data set on the hub: name it with `--dataset`"),
    // synthetic
    Pair("--transitions", "--text", "both define P: leave one out"),
    Pair("--transitions", "--zeros", "`--transitions` defines P, including its zeros"),
    Pair("--transitions", "--vocab", "`--transitions` defines P, including its vocabulary"),
    Pair("--text", "--zeros", "`--text` defines P, including its zeros"),
    // doctor
    Pair("--full", "--parity", "`--full` extends the comparison of `--parity`: give both"),
    // score
    Pair(
        "--human-features",
        "--model-features",
        "MAUVE needs features of both sides, or texts of both and `--featurizer`",
    ),
    Pair("--human-features", "--featurizer", "precomputed features need no featurizer: leave one out"),
    Pair("--no-cache", "--cache-dir", "`--no-cache` uses no folder: leave one out"),
    Pair("--overwrite", "--per-text", "without `--per-text` no file is written"),
    // sweep
    Pair("--max-lengths", "--max-length", "`--max-length` is a single length: list all with `--max-lengths`"),
    Pair("--gflops", "--dry-run", "only `--dry-run` estimates times"),
    // watch
    Pair("--once", "--serve", "`--once` prints the state, `--serve` keeps a page of it: leave one out"),
    Pair("--port", "--serve", "only `--serve` opens a port"),
    // plan
    Pair(
        "--roofline",
        "--gflops",
        "`--roofline` uses the peak rates of the GPU that `--device` names: leave one out",
    ),
    Pair("--roofline", "--share", "`--roofline` has an estimated share for each part: leave one out"),
    Pair("--roofline", "--tokens", "`--roofline` is about a single step: leave one out"),
    Pair("--roofline", "--ranks", "`--roofline` is about one GPU: leave one out"),
    Pair("--roofline", "--shard-optimizer", "`--roofline` is about one GPU: leave one out"),
    Pair("--roofline", "--grad-reduce-dtype", "`--roofline` is about one GPU: leave one out"),
    Pair("--roofline", "--activation-checkpointing", "`--roofline` covers steps without it: leave one out"),
    // bench
    Pair("--tokenizer", "--data", "without `--data` the tokens are random"),
    Pair(
        "--seq-len",
        "--new-tokens",
        "`--seq-len` is the length of prompt plus continuation: set only one of the two",
    ),
];

/// A hint for a usage error, where clap's message is not enough. `arguments` are the program's.
pub(crate) fn hint(error: &clap::Error, arguments: &[OsString]) -> Option<&'static str> {
    let others = flags(error.get(ContextKind::InvalidArg)?);
    let typed = match error.kind() {
        ErrorKind::ArgumentConflict => flags(error.get(ContextKind::PriorArg)?),
        // clap says what is missing, but not which flag needs it.
        ErrorKind::MissingRequiredArgument => arguments
            .iter()
            .filter_map(|argument| flag(&argument.to_string_lossy().replace('_', "-")))
            .collect(),
        _ => return None,
    };
    let both = |Pair(a, b, _): &&Pair| {
        let has = |flags: &[String], flag: &str| flags.iter().any(|known| known == flag);
        (has(&typed, a) && has(&others, b)) || (has(&typed, b) && has(&others, a))
    };
    PAIRS.iter().find(both).map(|Pair(_, _, hint)| *hint)
}

/// The flags of `--name <VALUE>...` and the like.
fn flags(value: &ContextValue) -> Vec<String> {
    match value {
        ContextValue::String(one) => flag(one).into_iter().collect(),
        ContextValue::Strings(many) => many.iter().filter_map(|one| flag(one)).collect(),
        _ => Vec::new(),
    }
}

fn flag(text: &str) -> Option<String> {
    let name = text.split([' ', '=', '<']).next()?;
    name.starts_with("--").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn hint_of(line: &str) -> Option<&'static str> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = cli::command().try_get_matches_from(&arguments).unwrap_err();
        hint(&error, &arguments)
    }

    #[test]
    fn the_flag_to_use_instead_is_named() {
        for (line, word) in [
            ("mixce generate --model m --documents f --out o --max-new-tokens 9", "`--max-length`"),
            ("mixce generate --model m --max-new-tokens 9 --documents f --out o", "`--max-length`"),
            ("mixce generate --model m --prompt a --max-length=9", "`--max-new-tokens`"),
            ("mixce generate --model m --prompt a --max_length 9", "`--max-new-tokens`"),
            ("mixce generate --model m --prompt a --resume", "`--overwrite`"),
            ("mixce generate --model m --documents f", "`--out` is the folder"),
            ("mixce generate --model m --prompt a --greedy --top-p 0.9", "leave it out to sample"),
            ("mixce evaluate --model m --data f --batch-size 4", "`--batch-tokens`"),
            (
                "mixce evaluate --model m --data f --block-size 64 --prompt-length 4",
                "leave out `--block-size`",
            ),
            ("mixce data prepare text --source f --split train --out o", "`--source FILE`"),
            ("mixce data prepare text --split train --out o", "name it with `--dataset`"),
            ("mixce score --human-features a.npy", "both sides"),
            ("mixce bench generate --seq-len 9 --new-tokens 3", "only one of the two"),
        ] {
            let told = hint_of(line).unwrap_or_else(|| panic!("`{line}` has no hint"));
            assert!(told.contains(word), "`{line}`: {told}");
        }
        assert_eq!(hint_of("mixce generate --model m"), None);
        assert_eq!(hint_of("mixce generate --nonsense"), None);
    }

    fn each_subcommand(command: &clap::Command, visit: &mut dyn FnMut(&clap::Command)) {
        visit(command);
        command.get_subcommands().for_each(|subcommand| each_subcommand(subcommand, visit));
    }

    fn long(argument: &clap::Arg) -> Option<String> {
        argument.get_long().map(|name| format!("--{name}"))
    }

    #[test]
    fn every_pair_that_clap_refuses_has_a_hint() {
        let mut command = cli::command();
        command.build();
        each_subcommand(&command, &mut |subcommand| {
            for argument in subcommand.get_arguments() {
                for other in subcommand.get_arg_conflicts_with(argument) {
                    let (Some(a), Some(b)) = (long(argument), long(other)) else { continue };
                    let known =
                        PAIRS.iter().any(|Pair(x, y, _)| (*x == a && *y == b) || (*x == b && *y == a));
                    assert!(known, "`{}`: {a} and {b} have no hint", subcommand.get_name());
                }
            }
        });
    }

    #[test]
    fn every_hint_is_about_flags_of_one_subcommand() {
        for Pair(a, b, _) in &PAIRS {
            let mut found = false;
            each_subcommand(&cli::command(), &mut |subcommand| {
                let flags: Vec<String> = subcommand.get_arguments().filter_map(long).collect();
                found |= [a, b].iter().all(|flag| flags.iter().any(|known| known == *flag));
            });
            assert!(found, "no subcommand has {a} and {b}");
        }
    }
}
