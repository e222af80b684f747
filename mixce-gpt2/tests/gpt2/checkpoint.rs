//! Loading every format, and refusing every kind of damage.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mixce_base::Hint as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{assert_same, fixture, named, random, tiny, values, write_model};
use candle_core::{DType, Device, Tensor};
use mixce_gpt2::{FAMILY, Gpt2Config};
use mixce_lm::Error;
use mixce_lm::checkpoint::{self, Checksum, WeightFormat, WeightType, load};
use proptest::prelude::*;

#[test]
fn every_published_format_gives_the_same_weights() {
    let expected =
        candle_core::safetensors::load(fixture("gpt2/formats/expected.safetensors"), &Device::Cpu).unwrap();
    for (name, format) in [
        ("bin_legacy", WeightFormat::PyTorch),
        ("bin_lm_transformer", WeightFormat::PyTorch),
        ("bin_transformer", WeightFormat::PyTorch),
        ("safetensors_bare", WeightFormat::Safetensors),
        ("safetensors_bf16", WeightFormat::Safetensors),
        ("safetensors_f16", WeightFormat::Safetensors),
        ("sharded", WeightFormat::Safetensors),
    ] {
        let loaded = load(&fixture(&format!("gpt2/formats/{name}")), &[&FAMILY], &Device::Cpu).unwrap();
        assert_eq!(loaded.format, format, "{name}");
        assert_eq!(loaded.parameters.len(), loaded.config.parameter_specs().len());
        for (parameter, tensor) in loaded.parameters.iter() {
            let want = &expected[&format!("parameters/{parameter}")];
            assert_eq!((tensor.dims(), tensor.dtype()), (want.dims(), DType::F32), "{name} {parameter}");
            assert_eq!(values(tensor), values(want), "{name} {parameter}");
        }
    }
}

#[test]
fn listing_reads_headers_only() {
    let tensors = checkpoint::list(&fixture("gpt2/formats/safetensors_bf16")).unwrap();
    let wte = tensors.iter().find(|tensor| tensor.name.ends_with("wte.weight")).unwrap();
    assert_eq!((wte.shape.as_slice(), &wte.dtype), ([13, 8].as_slice(), &WeightType::Bf16));
    assert!(tensors.is_sorted_by_key(|tensor| &tensor.name));
    assert!(!checkpoint::list(&fixture("gpt2/formats/bin_legacy/pytorch_model.bin")).unwrap().is_empty());
}

fn folder(config: &Gpt2Config, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = named(&random(config));
    change(&mut tensors);
    write_model(dir.path(), config, &tensors);
    dir
}

fn error_of(dir: &Path) -> String {
    match load(dir, &[&FAMILY], &Device::Cpu) {
        Ok(_) => "loaded without complaint".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn all_tensors_that_do_not_fit_are_listed_at_once() {
    let dir = folder(&tiny(), |tensors| {
        tensors.remove("h.1.ln_2.bias");
        tensors.insert("h.2.ln_1.bias".to_owned(), tensors["ln_f.bias"].clone());
        tensors.insert("wpe.weight".to_owned(), tensors["wte.weight"].clone());
    });
    let error = error_of(dir.path());
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(error.contains("1 misshapen: `wpe.weight` expected [8, 8] got [13, 8]"), "{error}");
    assert!(error.contains("1 missing: `h.1.ln_2.bias` [8]"), "{error}");
    assert!(error.contains("1 unexpected: `h.2.ln_1.bias` [8]"), "{error}");
}

#[test]
fn another_vocabulary_is_a_misshapen_embedding() {
    let dir = folder(&tiny(), |_| {});
    fs::write(dir.path().join("config.json"), Gpt2Config { vocab_size: 14, ..tiny() }.to_json()).unwrap();
    let error = load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("`wte.weight` expected [14, 8] got [13, 8]"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn old_buffers_are_ignored() {
    let mask = Tensor::ones((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let dir = folder(&tiny(), |tensors| {
        tensors.insert("h.0.attn.bias".to_owned(), mask.clone());
        tensors.insert("transformer.h.1.attn.masked_bias".to_owned(), mask.clone());
    });
    assert_same(&load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
}

#[test]
fn a_tied_head_may_be_stored_twice_or_alone_but_not_differ() {
    let twice = folder(&tiny(), |tensors| {
        tensors.insert("lm_head.weight".to_owned(), tensors["wte.weight"].clone());
    });
    assert_same(&load(twice.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
    let alone = folder(&tiny(), |tensors| {
        let wte = tensors.remove("wte.weight").unwrap();
        tensors.insert("lm_head.weight".to_owned(), wte);
    });
    assert_same(&load(alone.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
    let differs = folder(&tiny(), |tensors| {
        tensors.insert("lm_head.weight".to_owned(), (&tensors["wte.weight"] * 2.0).unwrap());
    });
    let error = load(differs.path(), &[&FAMILY], &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::HeadNotTied { .. }), "{error}");
    assert!(error.hint().unwrap().contains("tie_word_embeddings"));
    let misshapen = folder(&tiny(), |tensors| {
        tensors.insert("lm_head.weight".to_owned(), tensors["wpe.weight"].clone());
    });
    assert!(error_of(misshapen.path()).contains("`lm_head.weight` expected [13, 8] got [8, 8]"));
}

#[test]
fn an_untied_head_is_a_parameter() {
    let config = Gpt2Config { tie_word_embeddings: false, ..tiny() };
    let dir = folder(&config, |_| {});
    assert_same(&load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&config));
    let without = folder(&config, |tensors| {
        tensors.remove("lm_head.weight");
    });
    let error = load(without.path(), &[&FAMILY], &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("1 missing: `lm_head.weight` [13, 8]"), "{error}");
    assert!(error.hint().unwrap().contains("tie_word_embeddings"));
}

#[test]
fn one_parameter_under_two_prefixes_is_refused() {
    let dir = folder(&tiny(), |tensors| {
        tensors.insert("transformer.ln_f.bias".to_owned(), tensors["ln_f.bias"].clone());
    });
    assert!(error_of(dir.path()).contains("1 ambiguous: "), "{}", error_of(dir.path()));
}

#[test]
fn a_folder_without_weights_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error_of(dir.path()).contains("config.json"));
    fs::write(dir.path().join("config.json"), tiny().to_json()).unwrap();
    let error = error_of(dir.path());
    assert!(error.starts_with("no weights in `") && error.contains("`pytorch_model.bin`"), "{error}");
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    assert!(error_of(dir.path()).contains("at least 8 bytes, got 0"));
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let dir = folder(&tiny(), |_| {});
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    // Cut short anywhere.
    for end in [4, 8, 20, 8 + length, whole.len() - 1] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(error_of(dir.path()).starts_with("cannot read `"), "{end}: {}", error_of(dir.path()));
    }
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 32]);
        fs::write(&path, bytes).unwrap();
        error_of(dir.path())
    };
    // Header length beyond the file; shapes whose product overflows; offsets beyond the file, with gaps, backwards.
    let mut bytes = whole.clone();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(error_of(dir.path()).contains("promises a header of 18446744073709551615 bytes"));
    let huge = u64::MAX;
    for header in [
        format!(r#"{{"a":{{"dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,32]}}}}"#),
        r#"{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[32,16]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[7],"data_offsets":[0,32]}}"#.to_owned(),
        r#"{"a":{"dtype":"F99","shape":[8],"data_offsets":[0,32]}}"#.to_owned(),
        "[]".to_owned(),
        "{".to_owned(),
    ] {
        let error = with_header(&header);
        assert!(error.starts_with("cannot read `"), "{header}: {error}");
    }
    let integers = r#"{"wte.weight":{"dtype":"I64","shape":[4],"data_offsets":[0,32]}}"#;
    assert!(with_header(integers).contains("`wte.weight` expected [13, 8] got [4]"));
}

#[test]
fn integer_weights_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), tiny().to_json()).unwrap();
    let mut tensors: std::collections::HashMap<String, Tensor> =
        named(&random(&tiny())).into_iter().collect();
    let integers = tensors["ln_f.bias"].to_dtype(DType::I64).unwrap();
    tensors.insert("ln_f.bias".to_owned(), integers);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    assert!(error_of(dir.path()).contains("tensor `ln_f.bias` has dtype I64"), "{}", error_of(dir.path()));
}

fn copy_fixture(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

#[test]
fn damaged_shards_are_named() {
    let dir = copy_fixture("gpt2/formats/sharded");
    let index = dir.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-00001", "../model-00001")).unwrap();
    assert!(error_of(dir.path()).contains("is not a plain file name"));
    fs::write(&index, text.replacen("ln_f.bias", "ln_f.bias2", 1)).unwrap();
    assert!(error_of(dir.path()).contains("ln_f.bias2` should be in"), "{}", error_of(dir.path()));
    fs::write(&index, "{}").unwrap();
    assert!(error_of(dir.path()).contains("weight_map"));
    fs::write(&index, &text).unwrap();
    fs::copy(
        dir.path().join("model-00001-of-00003.safetensors"),
        dir.path().join("model-00002-of-00003.safetensors"),
    )
    .unwrap();
    assert!(error_of(dir.path()).contains("is in two shards"));
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert!(error_of(dir.path()).contains("model-00002-of-00003.safetensors"));
}

#[test]
fn truncated_pytorch_files_are_refused() {
    for name in ["bin_legacy", "bin_transformer"] {
        let dir = copy_fixture(&format!("gpt2/formats/{name}"));
        let path = dir.path().join("pytorch_model.bin");
        let whole = fs::read(&path).unwrap();
        for end in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..end]).unwrap();
            assert!(
                error_of(dir.path()).starts_with("cannot read `"),
                "{name} {end}: {}",
                error_of(dir.path())
            );
        }
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
        assert!(error_of(dir.path()).contains("not a PyTorch checkpoint"));
    }
}

/// PyTorch's own file with one flipped bit, at 500 places: refused, or it makes no difference.
#[test]
fn no_flipped_bit_of_a_zip_file_changes_a_weight() {
    let dir = copy_fixture("gpt2/formats/bin_transformer");
    let path = dir.path().join("pytorch_model.bin");
    let whole = fs::read(&path).unwrap();
    let intact = load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters;
    assert_eq!(checkpoint::verify(dir.path()).unwrap(), [(path.clone(), Checksum::Crc32)]);
    let mut refused = 0;
    for i in 0..500 {
        let mut bytes = whole.clone();
        bytes[(i * 7919 + 13) % whole.len()] ^= 1 << (i % 8);
        fs::write(&path, bytes).unwrap();
        match load(dir.path(), &[&FAMILY], &Device::Cpu) {
            Ok(loaded) => assert_same(&loaded.parameters, &intact),
            Err(_) => refused += 1,
        }
    }
    // The rest are local headers and padding, which nothing reads.
    assert!(refused > 200, "{refused}");
}

/// Damages some bytes of a weight file; whatever loads has the shapes of the configuration.
fn survives(name: &str, file: &str, damage: &[(usize, u8)]) -> Result<(), TestCaseError> {
    let dir = copy_fixture(&format!("gpt2/formats/{name}"));
    let path = dir.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    for &(at, value) in damage {
        let at = at % bytes.len();
        bytes[at] = value;
    }
    fs::write(&path, bytes).unwrap();
    if let Ok(loaded) = load(dir.path(), &[&FAMILY], &Device::Cpu) {
        for spec in loaded.config.parameter_specs() {
            prop_assert_eq!(loaded.parameters.get(&spec.name).unwrap().dims(), spec.shape);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_safetensors_never_panic(damage in prop::collection::vec((0usize..2500, any::<u8>()), 1..4)) {
        survives("safetensors_bare", "model.safetensors", &damage)?;
    }

    #[test]
    fn damaged_legacy_files_never_panic(damage in prop::collection::vec((0usize..4000, any::<u8>()), 1..4)) {
        survives("bin_legacy", "pytorch_model.bin", &damage)?;
    }

    #[test]
    fn damaged_indices_of_shards_never_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        survives("sharded", "model.safetensors.index.json", &damage)?;
    }

    #[test]
    fn damaged_zip_files_never_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        survives("bin_transformer", "pytorch_model.bin", &damage)?;
    }

    #[test]
    fn noise_after_a_pickle_header_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise.bin");
        let mut bytes = vec![0x80, 2];
        bytes.extend(noise);
        fs::write(&path, bytes).unwrap();
        prop_assert!(checkpoint::list(&path).is_err());
    }
}
