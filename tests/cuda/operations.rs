//! candle's operations on CUDA against the CPU: the value, and the gradient of a weighted sum of it.

use candle_core::{D, DType, Device, Result, Tensor, Var};

/// Sizes around those of warps and blocks, odd ones, and one.
const SIZES: [usize; 7] = [1, 3, 31, 33, 257, 1025, 3000];

/// Numbers from -2 to 2 without a pattern; the same for the same arguments.
fn numbers(shape: &[usize], seed: u64, device: &Device) -> Tensor {
    let count = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let numbers: Vec<f32> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect();
    Tensor::from_vec(numbers, shape, device).unwrap()
}

/// The result of `operation` on inputs of these shapes, then the gradient of each input.
fn value_and_gradients(
    shapes: &[Vec<usize>],
    dtype: DType,
    device: &Device,
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Vec<Vec<f32>> {
    let vars: Vec<Var> = (1..)
        .zip(shapes)
        .map(|(seed, shape)| {
            Var::from_tensor(&numbers(shape, seed, device).to_dtype(dtype).unwrap()).unwrap()
        })
        .collect();
    let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let value = operation(&inputs).unwrap();
    let weights = numbers(value.dims(), 99, device).to_dtype(dtype).unwrap();
    let gradients = (&value * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let flat = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let mut results = vec![flat(&value)];
    results.extend(vars.iter().map(|var| flat(gradients.get(var).expect("a gradient"))));
    results
}

/// Compares both devices. `tolerance` is relative to the largest number of a tensor: sums are taken in another order.
fn check_dtype(
    name: &str,
    shapes: &[Vec<usize>],
    dtype: DType,
    tolerance: f32,
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let cuda = mixce_kernels::cuda_device(0).unwrap();
    let want = value_and_gradients(shapes, dtype, &Device::Cpu, &operation);
    let got = value_and_gradients(shapes, dtype, &cuda, &operation);
    for (which, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(f32::MIN_POSITIVE, |largest, v| largest.max(v.abs()));
        for (index, (g, w)) in got.iter().zip(want).enumerate() {
            assert!(
                (g - w).abs() <= tolerance * largest,
                "{name} of {shapes:?}, {dtype:?}, tensor {which}, element {index}: CUDA {g}, CPU {w}"
            );
        }
    }
}

fn check(name: &str, shapes: &[Vec<usize>], operation: impl Fn(&[Tensor]) -> Result<Tensor>) {
    check_dtype(name, shapes, DType::F32, 1e-5, operation);
}

#[test]
fn element_by_element() {
    for n in SIZES {
        let (one, two) = (vec![vec![n]], vec![vec![n], vec![n]]);
        check("add", &two, |t| &t[0] + &t[1]);
        check("multiply", &two, |t| &t[0] * &t[1]);
        check("divide", &two, |t| &t[0] / (t[1].sqr()? + 1.0)?);
        check("exp", &one, |t| t[0].exp());
        check("log", &one, |t| (t[0].sqr()? + 0.5)?.log());
        check("gelu", &one, |t| t[0].gelu_erf());
        check("tanh", &one, |t| t[0].tanh());
        check("affine", &one, |t| t[0].affine(1.5, -0.25));
        check("relu", &one, |t| t[0].relu());
    }
}

#[test]
fn broadcast_transposed_and_sliced() {
    for n in [1, 5, 33] {
        check("broadcast", &[vec![7, n], vec![n]], |t| t[0].broadcast_mul(&t[1]));
        check("transpose", &[vec![7, n]], |t| t[0].t()?.contiguous());
        check("transposed sum", &[vec![7, n], vec![n, 7]], |t| t[0].t()? + &t[1]);
        check("slice", &[vec![9, n]], |t| t[0].narrow(0, 2, 5));
        check("join", &[vec![2, n], vec![3, n]], |t| Tensor::cat(t, 0));
    }
}

#[test]
fn reduced() {
    for n in SIZES {
        check("sum of rows", &[vec![3, n]], |t| t[0].sum(D::Minus1));
        check("sum of columns", &[vec![n, 3]], |t| t[0].sum(0));
        check("maximum", &[vec![3, n]], |t| t[0].max(D::Minus1));
        check("softmax", &[vec![3, n]], |t| candle_softmax(&t[0]));
    }
}

/// With the operations that have gradients.
fn candle_softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

#[test]
fn multiplied_as_matrices() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 65, 17), (64, 1, 130)] {
        check("product", &[vec![m, k], vec![k, n]], |t| t[0].matmul(&t[1]));
        check("product with a transpose", &[vec![m, k], vec![n, k]], |t| t[0].matmul(&t[1].t()?));
        check("products", &[vec![2, 3, m, k], vec![2, 3, k, n]], |t| t[0].matmul(&t[1]));
    }
}

#[test]
fn looked_up_and_selected() {
    let ids = |t: &Tensor| Tensor::new(&[3u32, 0, 3, 6, 1], t.device());
    for n in [1, 5, 33] {
        check("rows of a table", &[vec![7, n]], |t| t[0].index_select(&ids(&t[0])?, 0));
        check("one of each row", &[vec![5, 7]], |t| t[0].gather(&ids(&t[0])?.unsqueeze(1)?, 1));
        check("selected by a mask", &[vec![n, 4], vec![n, 4]], |t| t[0].gt(&t[1])?.where_cond(&t[0], &t[1]));
    }
}

/// The same operations in half precision: both devices round each result, a sum of many after other sums.
#[test]
fn in_bf16() {
    for n in [1, 33, 1025] {
        let (one, two) = (vec![vec![n]], vec![vec![n], vec![n]]);
        check_dtype("add", &two, DType::BF16, 1e-2, |t| &t[0] + &t[1]);
        check_dtype("multiply", &two, DType::BF16, 1e-2, |t| &t[0] * &t[1]);
        check_dtype("exp", &one, DType::BF16, 1e-2, |t| t[0].exp());
    }
}
