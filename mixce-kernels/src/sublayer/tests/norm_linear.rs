//! A norm and maps side by side.

use super::*;

/// One map as in GPT-2, and three of different widths.
const WIDTHS: [&[usize]; 2] = [&[20], &[17, 5, 9]];

fn sums(sublayer: &NormLinear) -> Result<NormLinearGradients> {
    let maps = sublayer.maps.iter().map(ones_of_map).collect::<Result<_>>()?;
    Ok(NormLinearGradients { norm: ones_of_norm(&sublayer.norm)?, maps })
}

fn parameters<'a>(sums: &'a NormLinearGradients, sublayer: &'a NormLinear) -> Pairs<'a> {
    let maps = sums.maps.iter().zip(&sublayer.maps).flat_map(|(sums, map)| of_map(sums, map));
    of_norm(&sums.norm, &sublayer.norm).into_iter().chain(maps).collect()
}

#[test]
fn fused_equals_plain_operations() -> Result<()> {
    let (c, problems) = (12, FORMS.into_iter().flat_map(|form| WIDTHS.map(|widths| (form, widths))));
    for ((form, widths), n) in problems.flat_map(|problem| ROWS.map(|n| (problem, n))) {
        let (x, sublayer) = (variable(&[n, c], 1)?, form.norm_linear(c, widths)?);
        let (name, n_out) = (format!("{form:?} {widths:?} {n}"), widths.iter().sum());
        let y = sublayer.detach().forward(&x.detach(), Precision::F32)?;
        assert_eq!(y.dims(), [n, n_out]);
        let (sums, dx, dy) = (sums(&sublayer)?, x.ones_like()?, random(&[n, n_out], 4)?);
        sublayer.backward(&x, &dy, &dx, &sums, Precision::F32)?;
        if n == 0 {
            continue;
        }
        let normed = sublayer.norm.forward_slow(&x)?;
        let outputs =
            sublayer.maps.iter().map(|map| plain_linear(&normed, map)).collect::<Result<Vec<_>>>()?;
        let slow = Tensor::cat(&outputs, 1)?;
        assert_close(&name, &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        let parameters = parameters(&sums, &sublayer);
        assert_added(&name, &[&[(&dx, &x)], &parameters[..]].concat(), &want)?;
        let variables: Vec<&Tensor> = parameters.iter().map(|(_, variable)| *variable).chain([&x]).collect();
        assert_tracked(&name, &sublayer.forward(&x, Precision::F32)?, &y, &dy, &want, &variables)?;
    }
    Ok(())
}

/// One map with the columns of three gives the same numbers, and the two layouts of a weight do.
#[test]
fn maps_and_layouts_change_nothing() -> Result<()> {
    let (c, x) = (12, random(&[BLOCK_ROWS + 3, 12], 1)?);
    let transposed = Form { transposed: true, ..GPT2 };
    let three = transposed.norm_linear(c, WIDTHS[1])?.detach();
    let matrices = three.maps.iter().map(|map| map.weight.matrix()).collect::<Result<Vec<_>>>()?;
    let biases: Vec<Tensor> = three.maps.iter().filter_map(|map| map.bias.as_deref().cloned()).collect();
    let map = Affine::new(Tensor::cat(&matrices, 1)?, Some(Tensor::cat(&biases, 0)?));
    let one = NormLinear { norm: three.norm.clone(), maps: vec![map] };
    let dy = random(&[BLOCK_ROWS + 3, 31], 4)?;
    for precision in [Precision::F32, Precision::Bf16] {
        let run = |sublayer: &NormLinear| -> Result<_> {
            let (dx, sums) = (x.zeros_like()?, sums(sublayer)?);
            sublayer.backward(&x, &dy, &dx, &sums, precision)?;
            let weights = sums.maps.iter().zip(&sublayer.maps).map(|(sums, map)| match map.weight {
                Weight::Transposed(_) => sums.weight.t(),
                _ => Ok(sums.weight.clone()),
            });
            let weights = Tensor::cat(&weights.collect::<Result<Vec<_>>>()?, 1)?;
            Ok([sublayer.forward(&x, precision)?, dx, sums.norm.weight, weights])
        };
        for (i, (got, want)) in run(&three)?.iter().zip(&run(&one)?).enumerate() {
            assert_close(&format!("{precision:?} {i}"), got, want, 1e-5 * scale(want)?, 1e-5);
        }
    }
    Ok(())
}

#[test]
fn gradients_are_the_finite_differences() -> Result<()> {
    for form in FORMS {
        let (x, sublayer) = (random(&[4, 6], 1)?, form.norm_linear(6, &[3, 5])?.detach());
        let sums = NormLinearGradients {
            norm: zeros_of(&ones_of_norm(&sublayer.norm)?)?,
            maps: sublayer.maps.iter().map(|map| zeros_of(&ones_of_map(map)?)).collect::<Result<_>>()?,
        };
        let (dx, dy) = (x.zeros_like()?, random(&[4, 8], 2)?);
        sublayer.backward(&x, &dy, &dx, &sums, Precision::F32)?;
        let run = |sublayer: &NormLinear, x: &Tensor| sublayer.forward(x, Precision::F32);
        assert_differences("x", &x, &dx, &dy, |x| run(&sublayer, x))?;
        assert_differences("norm", &sublayer.norm.weight, &sums.norm.weight, &dy, |weight| {
            let norm = Norm { weight: weight.clone(), ..sublayer.norm.clone() };
            run(&NormLinear { norm, ..sublayer.clone() }, &x)
        })?;
        for (i, (map, sums)) in sublayer.maps.iter().zip(&sums.maps).enumerate() {
            assert_differences("weight", map.weight.stored()?, &sums.weight, &dy, |weight| {
                let mut changed = sublayer.clone();
                changed.maps[i].weight = with_stored(&map.weight, weight);
                run(&changed, &x)
            })?;
        }
    }
    Ok(())
}

#[test]
fn bf16_is_near_f32() -> Result<()> {
    let (x, dy) = (random(&[BLOCK_ROWS + 1, 12], 1)?, random(&[BLOCK_ROWS + 1, 31], 4)?);
    for form in FORMS {
        let sublayer = form.norm_linear(12, WIDTHS[1])?.detach();
        let run = |precision| -> Result<Vec<Tensor>> {
            let (dx, sums) = (x.zeros_like()?, sums(&sublayer)?);
            sublayer.backward(&x, &dy, &dx, &sums, precision)?;
            let weights = sums.maps.into_iter().map(|sums| sums.weight);
            let first = [sublayer.forward(&x, precision)?, dx, sums.norm.weight];
            Ok(first.into_iter().chain(weights).collect())
        };
        assert_near(&format!("{form:?}"), &run(Precision::Bf16)?, &run(Precision::F32)?)?;
    }
    Ok(())
}

#[test]
fn packed_equals_dense() -> Result<()> {
    for (form, widths) in FORMS.into_iter().flat_map(|form| [&[60][..], &[50, 7, 100]].map(|w| (form, w))) {
        for (n, precision) in
            ROWS.into_iter().flat_map(|n| packed_precisions().into_iter().map(move |p| (n, p)))
        {
            let (x, sublayer) = (random(&[n, 12], 1)?, form.norm_linear(12, widths)?.detach());
            let got = sublayer.pack(precision)?.forward(&x, precision)?;
            let want = sublayer.forward(&x, precision)?;
            assert_close(&format!("{form:?} {widths:?} {n} {precision:?}"), &got, &want, 2e-5, 1e-5);
        }
    }
    Ok(())
}
