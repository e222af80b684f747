//! The flag names of the MixCE authors' scripts, accepted as hidden aliases where the meaning is the same.
//!
//! Source: `run_clm.py`-style scripts of <https://github.com/bloomberg/mixce-acl2023>.

pub(crate) const MODEL: &str = "model_name_or_path";
pub(crate) const TRAIN: &str = "train_file";
pub(crate) const VALID: &str = "validation_file";
pub(crate) const OUT: &str = "output_dir";
pub(crate) const LR: &str = "learning_rate";
pub(crate) const EPOCHS: &str = "num_train_epochs";
pub(crate) const MAX_STEPS: &str = "max_train_steps";
pub(crate) const BATCH_SIZE: &str = "per_device_train_batch_size";
pub(crate) const GRAD_ACCUM: &str = "gradient_accumulation_steps";
pub(crate) const SCHEDULER: &str = "lr_scheduler_type";
pub(crate) const WARMUP_STEPS: &str = "num_warmup_steps";
pub(crate) const ETA: &str = "mixing_ratio";
pub(crate) const MAX_LENGTH: &str = "max_length";
pub(crate) const PROMPT_LENGTH: &str = "prompt_length";
pub(crate) const BLOCK_SIZE: &str = "block_size";
pub(crate) const RESUME: &str = "resume_from_checkpoint";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    #[test]
    fn every_spelling_of_the_authors_trains() {
        let line = "mixce train --model_name_or_path gpt2 --train_file t.txt --validation_file v.txt --output_dir o \
                    --learning_rate 1e-4 --num_train_epochs 3 --max_train_steps 9 --per_device_train_batch_size 2 \
                    --gradient_accumulation_steps 4 --lr_scheduler_type cosine --num_warmup_steps 1 \
                    --mixing_ratio 0.25 --max_length 64 --block_size 32 --resume_from_checkpoint auto";
        let Command::Train(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not train")
        };
        let config = args.settings.over(mixce_train::config::TrainConfig::default());
        assert_eq!(config.model.as_deref(), Some("gpt2"));
        assert_eq!(config.train, Some("t.txt".into()));
        assert_eq!(config.valid, Some("v.txt".into()));
        assert_eq!(config.out.as_deref(), Some(std::path::Path::new("o")));
        assert_eq!((config.lr, config.epochs, config.max_steps), (1e-4, 3, Some(9)));
        assert_eq!((config.batch_size, config.grad_accum, config.warmup_steps), (2, 4, 1));
        assert_eq!((config.eta, config.max_length, config.block_size), (Some(0.25), Some(64), 32));
        assert_eq!(config.scheduler, mixce_train::optim::ScheduleKind::Cosine);
        assert_eq!(config.resume.as_deref(), Some("auto"));
    }

    #[test]
    fn prompt_length_is_known_to_generate() {
        let line =
            "mixce generate --model_name_or_path m --prompts f.txt --prompt_length 50 --max-new-tokens 9";
        let Command::Generate(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not generate")
        };
        assert_eq!((args.prompt_length, args.max_new_tokens), (Some(50), 9));
    }
}
