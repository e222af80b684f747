//! The gated MLP.

use super::*;

fn sums(mlp: &GatedMlp) -> Result<GatedMlpGradients> {
    let (gate, up, down) = (ones_of_map(&mlp.gate)?, ones_of_map(&mlp.up)?, ones_of_map(&mlp.down)?);
    Ok(GatedMlpGradients { norm: ones_of_norm(&mlp.norm)?, gate, up, down })
}

fn parameters<'a>(sums: &'a GatedMlpGradients, mlp: &'a GatedMlp) -> Pairs<'a> {
    let maps = [(&sums.gate, &mlp.gate), (&sums.up, &mlp.up), (&sums.down, &mlp.down)];
    let maps = maps.into_iter().flat_map(|(sums, map)| of_map(sums, map));
    of_norm(&sums.norm, &mlp.norm).into_iter().chain(maps).collect()
}

#[test]
fn fused_equals_plain_operations() -> Result<()> {
    let (c, inner) = (9, 22);
    let activations = [Activation::Silu, Activation::GeluNew, Activation::Gelu, Activation::Silu];
    let problems =
        FORMS.into_iter().flat_map(|form| ROWS.into_iter().zip(activations).map(move |p| (form, p)));
    for ((form, (n, activation)), dropout) in problems.flat_map(|p| dropouts().map(|dropout| (p, dropout))) {
        let (x, mlp) = (variable(&[n, c], 5)?, form.gated_mlp(c, inner, activation)?);
        let name = format!("{form:?} {n} {activation:?}");
        let (y, pre_activation) = mlp.detach().forward_saving(&x.detach(), dropout, Precision::F32)?;
        let again = mlp.detach().forward(&x.detach(), dropout, Precision::F32)?;
        assert_close("without saving", &again, &y, 0.0, 0.0);
        let (sums, dy) = (sums(&mlp)?, random(&[n, c], 6)?);
        let dx = dy.copy()?;
        mlp.backward(&x, &pre_activation, dropout, &dx, &sums, Precision::F32)?;
        if n == 0 {
            continue;
        }
        let normed = mlp.norm.forward_slow(&x)?;
        let (gate, up) = (plain_linear(&normed, &mlp.gate)?, plain_linear(&normed, &mlp.up)?);
        let before = Tensor::cat(&[&gate, &up], 1)?;
        assert_close("pre-activation", &pre_activation, &before, 2e-5, 1e-5);
        let branch = plain_linear(&(activation.forward_slow(&gate)? * up)?, &mlp.down)?;
        let slow = residual_dropout_slow(&x, &branch, dropout)?;
        assert_close(&name, &y, &slow, 2e-5 * scale(&slow)?, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        let want_dx = want.get(&x).unwrap();
        assert_close(&name, &dx, want_dx, 5e-5 * scale(want_dx)?, 1e-4);
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
fn gradients_are_the_finite_differences() -> Result<()> {
    for form in FORMS {
        let x = (random(&[3, 5], 1)? * 0.5)?;
        let mlp = form.gated_mlp(5, 4, Activation::Silu)?.detach();
        let zeros = |map: &Affine| zeros_of(&ones_of_map(map)?);
        let sums = GatedMlpGradients {
            norm: zeros_of(&ones_of_norm(&mlp.norm)?)?,
            gate: zeros(&mlp.gate)?,
            up: zeros(&mlp.up)?,
            down: zeros(&mlp.down)?,
        };
        let (dropout, dy) = (dropouts()[1], random(&[3, 5], 2)?);
        let dx = dy.copy()?;
        let (_, saved) = mlp.forward_saving(&x, dropout, Precision::F32)?;
        mlp.backward(&x, &saved, dropout, &dx, &sums, Precision::F32)?;
        let run = |mlp: &GatedMlp, x: &Tensor| mlp.forward(x, dropout, Precision::F32);
        assert_differences("x", &x, &dx, &dy, |x| run(&mlp, x))?;
        assert_differences("norm", &mlp.norm.weight, &sums.norm.weight, &dy, |weight| {
            let norm = Norm { weight: weight.clone(), ..mlp.norm.clone() };
            run(&GatedMlp { norm, ..mlp.clone() }, &x)
        })?;
        type Part = fn(&mut GatedMlp) -> &mut Affine;
        let parts: [(Part, &AffineGradients); 3] = [
            (|mlp| &mut mlp.gate, &sums.gate),
            (|mlp| &mut mlp.up, &sums.up),
            (|mlp| &mut mlp.down, &sums.down),
        ];
        for (part, sums) in parts {
            let map = part(&mut mlp.clone()).clone();
            assert_differences("weight", map.weight.stored()?, &sums.weight, &dy, |weight| {
                let mut changed = mlp.clone();
                part(&mut changed).weight = with_stored(&map.weight, weight);
                run(&changed, &x)
            })?;
            if let (Some(bias), Some(sum)) = (&map.bias, &sums.bias) {
                assert_differences("bias", bias, sum, &dy, |bias| {
                    let mut changed = mlp.clone();
                    part(&mut changed).bias = Some(bias.clone().into());
                    run(&changed, &x)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn packed_equals_dense_and_bf16_is_near_f32() -> Result<()> {
    let x = random(&[BLOCK_ROWS + 1, 6], 1)?;
    for form in FORMS {
        let mlp = form.gated_mlp(6, 50, Activation::Silu)?.detach();
        for precision in packed_precisions() {
            let (got, want) =
                (mlp.pack(precision)?.forward(&x, None, precision)?, mlp.forward(&x, None, precision)?);
            assert_close(&format!("{form:?}"), &got, &want, 2e-5 * scale(&want)?, 1e-5);
        }
        let run = |precision| -> Result<Vec<Tensor>> {
            let (sums, dx) = (sums(&mlp)?, x.copy()?);
            let (y, saved) = mlp.forward_saving(&x, None, precision)?;
            mlp.backward(&x, &saved, None, &dx, &sums, precision)?;
            Ok(vec![y, saved, dx, sums.norm.weight, sums.gate.weight, sums.up.weight, sums.down.weight])
        };
        assert_near(&format!("{form:?}"), &run(Precision::Bf16)?, &run(Precision::F32)?)?;
    }
    Ok(())
}
