//! An affine map with dropout and the residual sum.

use super::*;

#[test]
fn fused_equals_plain_operations() -> Result<()> {
    let (n_in, c) = (10, 7);
    let problems = FORMS.into_iter().flat_map(|form| ROWS.map(|n| (form, n)));
    for ((form, n), dropout) in problems.flat_map(|problem| dropouts().map(|dropout| (problem, dropout))) {
        let (x, residual) = (variable(&[n, n_in], 1)?, variable(&[n, c], 3)?);
        let (name, sublayer) = (format!("{form:?} {n}"), LinearResidual { map: form.map(n_in, c, 2)? });
        let y = sublayer.detach().forward(&x.detach(), &residual.detach(), dropout, Precision::F32)?;
        let (dy, sums) = (random(&[n, c], 4)?, ones_of_map(&sublayer.map)?);
        let dx = sublayer.backward(&x, &dy, dropout, &sums, Precision::F32)?;
        assert_eq!((y.dims(), dx.dims()), (&[n, c][..], &[n, n_in][..]));
        if n == 0 {
            continue;
        }
        let slow = residual_dropout_slow(&residual, &plain_linear(&x, &sublayer.map)?, dropout)?;
        assert_close(&name, &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        assert_close(&name, &dx, want.get(&x).unwrap(), 1e-4, 1e-4);
        assert_close("dresidual", &dy, want.get(&residual).unwrap(), 0.0, 0.0);
        let parameters = of_map(&sums, &sublayer.map);
        assert_added(&name, &parameters, &want)?;
        let tracked = sublayer.forward(&x, &residual, dropout, Precision::F32)?;
        let variables: Vec<&Tensor> = parameters.iter().map(|(_, v)| *v).chain([&x, &residual]).collect();
        assert_tracked(&name, &tracked, &y, &dy, &want, &variables)?;
    }
    Ok(())
}

#[test]
fn packed_equals_dense_and_bf16_is_near_f32() -> Result<()> {
    let (x, residual) = (random(&[37, 10], 1)?, random(&[37, 70], 3)?);
    for form in FORMS {
        let sublayer = LinearResidual { map: form.map(10, 70, 2)?.detach() };
        let run =
            |sublayer: &LinearResidual, precision| sublayer.forward(&x, &residual, dropouts()[1], precision);
        let f32 = run(&sublayer, Precision::F32)?;
        for precision in packed_precisions() {
            let want = run(&sublayer, precision)?;
            assert_close(
                &format!("{form:?}"),
                &run(&sublayer.pack(precision)?, precision)?,
                &want,
                2e-5,
                1e-5,
            );
        }
        assert_near(&format!("{form:?}"), &[run(&sublayer, Precision::Bf16)?], &[f32])?;
    }
    Ok(())
}
