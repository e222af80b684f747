use super::*;

fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend((header.len() as u16).to_le_bytes());
    } else {
        bytes.extend((header.len() as u32).to_le_bytes());
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn read(name: &str, bytes: &[u8]) -> Result<Features> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Features::read(&path)
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn npy_in_all_layouts() {
    let values = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let expected = Features::new(2, 3, values.to_vec()).unwrap();
    let header = |descr: &str, fortran: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 3), }}   \n")
    };
    assert_eq!(read("a.npy", &npy(1, &header("<f4", "False"), &little_endian(&values))).unwrap(), expected);
    let doubles: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    assert_eq!(read("a.npy", &npy(2, &header("<f8", "False"), &doubles)).unwrap(), expected);
    let halves: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    assert_eq!(read("a.NPY", &npy(3, &header("<f2", "False"), &halves)).unwrap(), expected);
    let columns = little_endian(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(read("a.npy", &npy(1, &header("<f4", "True"), &columns)).unwrap(), expected);
}

#[test]
fn sizes_that_lie_are_errors_and_not_allocations() {
    for (shape, words) in [
        ("(18446744073709551615, 2)", "more bytes than exist"),
        ("(4611686018427387904, 1)", "more bytes than exist"),
        ("(1000000000, 1000)", "the file has 8 bytes"),
        ("(3,)", "expected a matrix"),
        ("(99999999999999999999, 2)", "cannot read the shape"),
        ("(2, 0)", "the file has 8 bytes"),
        ("(-1, 2)", "cannot read the shape"),
        ("oops", "cannot read the shape"),
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let error = read("a.npy", &npy(1, &header, &[0; 8])).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("a.npy`"), "{shape}: {error}");
    }
    let endless = read("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}").unwrap_err().to_string();
    assert!(endless.contains("within its header"), "{endless}");
    let objects = npy(1, "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", b"xxxx");
    assert!(read("a.npy", &objects).unwrap_err().to_string().contains("type `|O`"));
    assert!(read("a.npy", b"PK").unwrap_err().to_string().contains("no `.npy` file"));
    assert!(read("a.csv", b"1,2").unwrap_err().to_string().contains("expected a name"));
}

#[test]
fn safetensors_by_name_or_alone() {
    use ::safetensors::Dtype;
    use ::safetensors::tensor::{TensorView, serialize};
    let data = little_endian(&[1.0, 2.0, 3.0, 4.0]);
    let view = || TensorView::new(Dtype::F32, vec![2, 2], &data).unwrap();
    let expected = Features::new(2, 2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let bytes = serialize([("any", view())], None).unwrap();
    assert_eq!(read("a.safetensors", &bytes).unwrap(), expected);
    let bytes = serialize([("b", view()), ("features", view())], None).unwrap();
    assert_eq!(read("a.safetensors", &bytes).unwrap(), expected);
    let bytes = serialize([("b", view()), ("c", view())], None).unwrap();
    assert!(read("a.safetensors", &bytes).unwrap_err().to_string().contains("got 2 tensors"));
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(b"{}");
    assert!(read("a.safetensors", &huge).is_err());
}

#[test]
fn non_finite_features_are_placed() {
    let features = Features::new(2, 2, vec![0.0, 1.0, f32::NAN, 2.0]).unwrap();
    let error = features.require_finite("model features").unwrap_err().to_string();
    assert!(error.contains("model features") && error.contains("row 1, column 0"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// What a damaged header claims is neither believed nor fatal.
    #[test]
    fn damaged_arrays_never_panic(
        damage in proptest::collection::vec((0usize..140, proptest::prelude::any::<u8>()), 1..5),
        shape in "[0-9, ()-]{0,24}",
        safetensors in proptest::prelude::any::<bool>(),
    ) {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let name = if safetensors { "a.safetensors" } else { "a.npy" };
        let mut bytes = npy(1, &header, &[0; 48]);
        if safetensors {
            let header = format!("{{\"features\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[0,48]}}}}");
            bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 48]].concat();
        }
        proptest::prop_assert!(read(name, &bytes).is_ok_and(|read| read.values().len() <= 12) || read(name, &bytes).is_err());
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = read(name, &bytes);
    }
}
