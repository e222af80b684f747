//! Validation of a configuration, single values first, then combinations; messages name the fields.
use candle_core::Device;

use super::{Every, Pack, Selection, TrainConfig};
use crate::distributed::ReduceDtype;
use crate::error::{Error, Result};

impl TrainConfig {
    /// All checks that need no file: [`Self::validate_settings`], and that model, data and output are given.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        self.validate_settings()?;
        match (&self.model, &self.from_config, &self.tokenizer) {
            (Some(_), Some(_), _) => {
                return Err(Error::config(
                    "`config.model` and `config.from_config` exclude each other: finetune, or train from scratch",
                ));
            }
            (None, None, _) => {
                return Err(Error::config(
                    "expected `config.model` (finetune) or `config.from_config` (from scratch)",
                ));
            }
            (None, Some(_), None) => {
                return Err(Error::config("`config.from_config` needs `config.tokenizer`"));
            }
            _ => {}
        }
        if self.train.is_none() {
            return Err(Error::config("expected `config.train`, a file of training documents"));
        }
        if self.out.is_none() {
            return Err(Error::config("expected `config.out`, the run folder"));
        }
        if self.valid.is_none() {
            if self.select == Selection::Mauve {
                return Err(Error::config(
                    "`config.select = mauve` needs `config.valid`: there is nothing to evaluate",
                ));
            }
            if self.patience.is_some() {
                return Err(Error::config(
                    "`config.patience` needs `config.valid`: there is nothing to evaluate",
                ));
            }
            if matches!(self.eval_every, Every::Steps(_)) {
                return Err(Error::config(
                    "`config.eval_every` needs `config.valid`: there is nothing to evaluate",
                ));
            }
        }
        Ok(())
    }

    /// Checks the values of the settings, but not the sources of model and data.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate_settings(&self) -> Result<()> {
        self.validate_sizes()?;
        self.reading().separator()?;
        self.reading().delimiter_byte()?;
        self.validate_optimizer()?;
        self.validate_objective()
    }

    fn validate_sizes(&self) -> Result<()> {
        at_least_one("epochs", self.epochs)?;
        at_least_one("max_steps", self.max_steps.unwrap_or(1))?;
        at_least_one("batch_size", self.batch_size as u64)?;
        at_least_one("grad_accum", self.grad_accum as u64)?;
        at_least_one("keep_last", self.keep_last as u64)?;
        at_least_one("select_documents", self.select_documents as u64)?;
        at_least_one("select_prompt_length", self.select_prompt_length as u64)?;
        at_least_one("patience", self.patience.unwrap_or(1))?;
        at_least_one("log_every", self.log_every)?;
        at_least_one("threads", self.threads.unwrap_or(1) as u64)?;
        for (field, every) in [("eval_every", self.eval_every), ("save_every", self.save_every)] {
            if every == Every::Steps(0) {
                return Err(Error::config(format!(
                    "`config.{field}`: expected `epoch`, `never` or at least 1, got `0`"
                )));
            }
        }
        let least = 2 + usize::from(self.add_bos == Some(true));
        if let Some(length) = self.max_length.filter(|length| *length < least) {
            return Err(Error::config(format!(
                "`config.max_length`: expected at least {least}, got `{length}`"
            )));
        }
        self.validate_packing()?;
        self.validate_integers()
    }

    fn validate_packing(&self) -> Result<()> {
        match (self.pack, self.block_size) {
            (_, 1) => Err(Error::config("`config.block_size`: expected 0 (off) or at least 2, got `1`")),
            (_, 2) if self.confine_attention => Err(Error::config(
                "`config.block_size`: expected at least 3 with `config.confine_attention`, got `2`",
            )),
            (Some(Pack::Concat), 0) => {
                Err(Error::config("`config.pack = concat` needs `config.block_size`, the length of a block"))
            }
            (Some(Pack::Documents), 2..) => Err(Error::config(format!(
                "`config.block_size = {}` does not apply to `config.pack = documents`",
                self.block_size
            ))),
            (_, 0) if self.confine_attention => Err(Error::config(
                "`config.confine_attention` does not apply without `config.block_size`: attention is always confined to a document then",
            )),
            _ => Ok(()),
        }
    }

    /// TOML integers are limited to 2^63 - 1, and `run.toml` and configuration files must be able to represent every setting.
    fn validate_integers(&self) -> Result<()> {
        let steps = |every| if let Every::Steps(n) = every { n } else { 0 };
        for (field, value) in [
            ("seed", self.seed),
            ("epochs", self.epochs),
            ("max_steps", self.max_steps.unwrap_or(0)),
            ("warmup_steps", self.warmup_steps),
            ("patience", self.patience.unwrap_or(0)),
            ("log_every", self.log_every),
            ("eval_every", steps(self.eval_every)),
            ("save_every", steps(self.save_every)),
            ("batch_size", self.batch_size as u64),
            ("grad_accum", self.grad_accum as u64),
            ("max_length", self.max_length.unwrap_or(0) as u64),
            ("skip_bad_rows", self.skip_bad_rows),
            ("block_size", self.block_size as u64),
            ("keep_last", self.keep_last as u64),
            ("threads", self.threads.unwrap_or(0) as u64),
        ] {
            if i64::try_from(value).is_err() {
                return Err(Error::config(format!(
                    "`config.{field}`: expected at most {}, got `{value}`",
                    i64::MAX
                )));
            }
        }
        Ok(())
    }

    fn validate_optimizer(&self) -> Result<()> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::config(format!("`config.lr`: expected a number above 0, got `{}`", self.lr)));
        }
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("clip_grad_norm", self.clip_grad_norm)?;
        not_negative("adam_epsilon", self.adam_epsilon)?;
        if let Some(factor) = self.skip_outlier_steps.filter(|k| !(*k > 1.0 && k.is_finite())) {
            return Err(Error::config(format!(
                "`config.skip_outlier_steps`: expected a number above 1, got `{factor}`"
            )));
        }
        for beta in self.betas {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::config(format!(
                    "`config.betas`: expected numbers in [0, 1), got `{beta}`"
                )));
            }
        }
        if let Some(p) = self.dropout.filter(|p| !(0.0..1.0).contains(p)) {
            return Err(Error::config(format!("`config.dropout`: expected a number in [0, 1), got `{p}`")));
        }
        if let Some(max_steps) = self.max_steps.filter(|&n| self.warmup_steps >= n) {
            return Err(Error::config(format!(
                "`config.warmup_steps = {}` must be less than `config.max_steps = {max_steps}`",
                self.warmup_steps
            )));
        }
        Ok(())
    }

    /// Refuses settings that `device` does not support.
    ///
    /// # Errors
    /// bf16 on hardware without bf16 instructions, for products or, on a GPU, gradients.
    pub fn check_device(&self, device: &Device) -> Result<()> {
        let refused = |name: &str, error: candle_core::Error| Error::Config {
            message: format!("`config.{name} = bf16`: {error}"),
            hint: Some(format!("use `config.{name} = f32`, the default")),
        };
        // CPUs need no instructions to round gradients.
        if self.grad_reduce_dtype == ReduceDtype::Bf16 && device.is_cuda() {
            let check = mixce_kernels::Precision::Bf16.check(device);
            check.map_err(|error| refused("grad_reduce_dtype", error))?;
        }
        let precision = mixce_kernels::Precision::from(self.precision);
        precision.check(device).map_err(|error| refused("precision", error))
    }
}

fn at_least_one(field: &str, value: u64) -> Result<()> {
    if value == 0 {
        return Err(Error::config(format!("`config.{field}`: expected at least 1, got `0`")));
    }
    Ok(())
}

fn not_negative(field: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        return Err(Error::config(format!(
            "`config.{field}`: expected a number of at least 0, got `{value}`"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TrainConfig {
        TrainConfig {
            model: Some("m".into()),
            train: Some("t.txt".into()),
            out: Some("o".into()),
            ..TrainConfig::default()
        }
    }

    #[test]
    fn the_paper_is_valid() {
        good().validate().unwrap();
    }

    #[test]
    fn messages_name_the_fields() {
        type Case = (fn(&mut TrainConfig), &'static [&'static str]);
        let cases: &[Case] = &[
            (|c| c.from_config = Some("c.json".into()), &["`config.model`", "`config.from_config`"]),
            (|c| c.model = None, &["`config.model`", "`config.from_config`"]),
            (|c| (c.model, c.from_config) = (None, Some("c".into())), &["`config.tokenizer`"]),
            (|c| c.train = None, &["`config.train`"]),
            (|c| c.out = None, &["`config.out`"]),
            (|c| c.patience = Some(3), &["`config.patience`", "`config.valid`"]),
            (|c| c.eval_every = Every::Steps(3), &["`config.eval_every`", "`config.valid`"]),
            (|c| c.batch_size = 0, &["`config.batch_size`"]),
            (|c| c.max_length = Some(1), &["`config.max_length`", "`1`"]),
            (|c| c.pack = Some(Pack::Concat), &["`config.pack = concat`", "`config.block_size`"]),
            (
                |c| (c.pack, c.block_size) = (Some(Pack::Documents), 8),
                &["`config.pack = documents`", "`config.block_size = 8`"],
            ),
            (|c| c.confine_attention = true, &["`config.confine_attention`"]),
            (|c| c.document_separator = Some(String::new()), &["`settings.document_separator`"]),
            (|c| c.delimiter = Some("ab".into()), &["`settings.delimiter = ab`"]),
            (|c| c.lr = f64::NAN, &["`config.lr`", "`NaN`"]),
            (|c| c.betas = [0.9, 1.0], &["`config.betas`"]),
            (|c| c.dropout = Some(1.0), &["`config.dropout`"]),
            (|c| c.skip_outlier_steps = Some(1.0), &["`config.skip_outlier_steps`", "above 1", "`1`"]),
            (|c| c.weight_decay = -1.0, &["`config.weight_decay`", "`-1`"]),
            (
                |c| (c.warmup_steps, c.max_steps) = (9, Some(9)),
                &["`config.warmup_steps = 9`", "`config.max_steps = 9`"],
            ),
            (|c| c.gamma = Some(0.5), &["`config.gamma = 0.5`", "`config.objective = mixce`"]),
            (|c| c.seed = u64::MAX, &["`config.seed`"]),
            (|c| c.save_every = Every::Steps(u64::MAX), &["`config.save_every`", "9223372036854775807"]),
            (|c| c.epochs = 1 << 63, &["`config.epochs`"]),
            (|c| c.keep_last = usize::MAX, &["`config.keep_last`"]),
        ];
        for (spoil, words) in cases {
            let mut config = good();
            spoil(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
    }

    #[test]
    fn the_largest_settings_survive_toml() {
        for save_every in [Every::Steps(i64::MAX as u64), Every::Never, Every::Epoch] {
            let config = TrainConfig { save_every, epochs: i64::MAX as u64, ..good() };
            config.validate().unwrap();
            let text = config.to_toml().unwrap();
            assert_eq!(TrainConfig::from_toml_str(&text, "c.toml".as_ref()).unwrap(), config);
        }
    }
}
