//! The MLP.

use super::*;

fn sums(mlp: &Mlp) -> Result<MlpGradients> {
    let (up, down) = (ones_of_map(&mlp.up)?, ones_of_map(&mlp.down)?);
    Ok(MlpGradients { norm: ones_of_norm(&mlp.norm)?, up, down })
}

fn parameters<'a>(sums: &'a MlpGradients, mlp: &'a Mlp) -> Pairs<'a> {
    [of_norm(&sums.norm, &mlp.norm), of_map(&sums.up, &mlp.up), of_map(&sums.down, &mlp.down)].concat()
}

#[test]
fn fused_equals_plain_operations() -> Result<()> {
    let (c, inner) = (9, 22);
    let activations = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];
    let problems =
        FORMS.into_iter().flat_map(|form| ROWS.into_iter().zip(activations).map(move |p| (form, p)));
    for ((form, (n, activation)), dropout) in problems.flat_map(|p| dropouts().map(|dropout| (p, dropout))) {
        let (x, mlp) = (variable(&[n, c], 4)?, form.mlp(c, inner, activation)?);
        let name = format!("{form:?} {n} {activation:?}");
        let (y, pre_activation) = mlp.detach().forward_saving(&x.detach(), dropout, Precision::F32)?;
        let again = mlp.detach().forward(&x.detach(), dropout, Precision::F32)?;
        assert_close("without saving", &again, &y, 0.0, 0.0);
        let (sums, dy) = (sums(&mlp)?, random(&[n, c], 5)?);
        let dx = dy.copy()?;
        mlp.backward(&x, &pre_activation, dropout, &dx, &sums, Precision::F32)?;
        if n == 0 {
            continue;
        }
        let before = plain_linear(&mlp.norm.forward_slow(&x)?, &mlp.up)?;
        assert_close("pre-activation", &pre_activation, &before, 2e-5, 1e-5);
        let branch = plain_linear(&activation.forward_slow(&before)?, &mlp.down)?;
        let slow = residual_dropout_slow(&x, &branch, dropout)?;
        assert_close(&name, &y, &slow, 1e-4, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        assert_close(&name, &dx, want.get(&x).unwrap(), 1e-3, 1e-4);
        let parameters = parameters(&sums, &mlp);
        assert_added(&name, &parameters, &want)?;
        let variables: Vec<&Tensor> = parameters.iter().map(|(_, variable)| *variable).chain([&x]).collect();
        let (tracked, saved) = mlp.forward_saving(&x, dropout, Precision::F32)?;
        assert_close("pre-activation in the graph", &saved, &pre_activation, 2e-5, 1e-5);
        assert_tracked(&name, &tracked, &y, &dy, &want, &variables)?;
    }
    Ok(())
}

#[test]
fn packed_equals_dense_and_bf16_is_near_f32() -> Result<()> {
    let x = random(&[5, 6], 1)?;
    for form in FORMS {
        let mlp = form.mlp(6, 50, Activation::Gelu)?.detach();
        for precision in packed_precisions() {
            let (got, want) =
                (mlp.pack(precision)?.forward(&x, None, precision)?, mlp.forward(&x, None, precision)?);
            assert_close(&format!("{form:?}"), &got, &want, 2e-5 * scale(&want)?, 1e-5);
        }
        let run = |precision| -> Result<Vec<Tensor>> {
            let (sums, dx) = (sums(&mlp)?, x.copy()?);
            let (y, saved) = mlp.forward_saving(&x, None, precision)?;
            mlp.backward(&x, &saved, None, &dx, &sums, precision)?;
            Ok(vec![y, saved, dx, sums.norm.weight, sums.up.weight, sums.down.weight])
        };
        assert_near(&format!("{form:?}"), &run(Precision::Bf16)?, &run(Precision::F32)?)?;
    }
    Ok(())
}
