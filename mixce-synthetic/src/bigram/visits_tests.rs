use super::*;
use mixce_base::rng::Stream;

/// A random chain of V contexts with full support.
fn chain(vocab: usize, seed: u64) -> Vec<f64> {
    let stream = Stream::new(seed);
    let mut probs: Vec<f64> = (0..vocab * (vocab + 1)).map(|i| stream.uniform_open(i as u64)).collect();
    for row in probs.chunks_exact_mut(vocab + 1) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= total);
    }
    probs
}

fn rewards(vocab: usize, seed: u64) -> Rewards {
    let stream = Stream::new(seed).fold(9);
    let draw = |label: u64, n: usize| (0..n).map(|i| stream.fold(label).normal(i as u64)).collect();
    Rewards { first: draw(0, vocab + 1), later: draw(1, vocab * (vocab + 1)) }
}

/// Sums over every sequence of at most `tokens` tokens, one by one.
fn enumerate(vocab: usize, probs: &[f64], rewards: &Rewards, tokens: usize) -> (f64, Vec<f64>) {
    let outputs = vocab + 1;
    let mut value = 0.0;
    let mut visits = vec![0.0; vocab];
    let mut stack = vec![(None::<usize>, 1.0f64, 0usize)];
    while let Some((previous, mass, length)) = stack.pop() {
        if length == tokens {
            continue;
        }
        if let Some(context) = previous {
            visits[context] += mass;
        }
        for y in 0..outputs {
            let context = previous.unwrap_or(0);
            let p = mass * probs[context * outputs + y];
            let reward = previous.map_or(rewards.first[y], |c| rewards.later[c * outputs + y]);
            value += p * reward;
            if y < vocab {
                stack.push((Some(y), p, length + 1));
            }
        }
    }
    (value, visits)
}

#[test]
fn exact_equals_enumeration() {
    for tokens in [1, 2, 3, 9] {
        let (probs, rewards) = (chain(3, 4), rewards(3, 4));
        let chain = Chain::new(3, &probs);
        let (value, visits) = enumerate(3, &probs, &rewards, tokens);
        let got = chain.expected_with_gradient(&rewards, Horizon::Tokens(tokens));
        assert!((got.value - value).abs() < 1e-12, "{tokens}: {} {value}", got.value);
        assert!((chain.expected(&rewards, Horizon::Tokens(tokens)) - value).abs() < 1e-12);
        for (a, b) in chain.visits(Horizon::Tokens(tokens)).iter().zip(&visits) {
            assert!((a - b).abs() < 1e-12);
        }
    }
}

#[test]
fn gradients_follow_finite_differences() {
    for horizon in
        [Horizon::Tokens(1), Horizon::Tokens(2), Horizon::Tokens(3), Horizon::Tokens(499), Horizon::Unbounded]
    {
        let (mut probs, rewards) = (chain(4, 8), rewards(4, 8));
        let got = Chain::new(4, &probs).expected_with_gradient(&rewards, horizon).gradient;
        for i in 0..probs.len() {
            let old = probs[i];
            probs[i] = old + 1e-6;
            let up = Chain::new(4, &probs).expected(&rewards, horizon);
            probs[i] = old - 1e-6;
            let down = Chain::new(4, &probs).expected(&rewards, horizon);
            probs[i] = old;
            let want = (up - down) / 2e-6;
            assert!((got[i] - want).abs() < 1e-7 * (1.0 + want.abs()), "{horizon:?} {i}: {} {want}", got[i]);
        }
    }
}

#[test]
fn the_linear_system_is_the_limit_of_the_powers() {
    let (probs, rewards) = (chain(7, 2), rewards(7, 2));
    let chain = Chain::new(7, &probs);
    let limit = chain.expected_with_gradient(&rewards, Horizon::Unbounded);
    let long = chain.expected_with_gradient(&rewards, Horizon::Tokens(3000));
    assert!((limit.value - long.value).abs() < 1e-9);
    for (a, b) in limit.gradient.iter().zip(&long.gradient) {
        assert!((a - b).abs() < 1e-8 * (1.0 + a.abs()));
    }
}

/// The geometric tail changes nothing: compared with 499 explicit products, also for a chain that ends slowly.
#[test]
fn the_geometric_tail_is_exact() {
    let mut probs = chain(6, 5);
    for row in probs.chunks_exact_mut(7) {
        row[6] *= 0.01;
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= total);
    }
    let chain = Chain::new(6, &probs);
    let occupation = chain.occupation(498);
    assert!(occupation.explicit.len() < 60, "the tail was closed early: {}", occupation.explicit.len());
    let mut n = probs[..6].to_vec();
    let mut visits = vec![0.0; 6];
    for _ in 0..498 {
        axpy64(1.0, &n, &mut visits);
        n = chain.forward(&n);
    }
    assert!(n.iter().sum::<f64>() > 0.1, "truncation matters here");
    for (a, b) in chain.visits(Horizon::Tokens(499)).iter().zip(&visits) {
        assert!((a - b).abs() < 1e-9 * b);
    }
    let rewards = rewards(6, 5);
    let got = chain.expected_with_gradient(&rewards, Horizon::Tokens(499));
    let unbounded = chain.expected(&rewards, Horizon::Unbounded);
    assert!((got.value - unbounded).abs() > 1e-3);
}

#[test]
fn a_periodic_chain_has_no_tail_and_is_still_exact() {
    // 1 -> 2 -> 1 -> ... with EOS probability 0.01: the powers never turn parallel.
    let probs = [0.0, 0.9, 0.1, 0.0, 0.0, 0.0, 0.99, 0.01, 0.0, 0.99, 0.0, 0.01];
    let chain = Chain::new(3, &probs);
    let rewards = Rewards {
        first: vec![0.0; 4],
        later: vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    };
    let mut want = 0.0;
    let mut mass = [0.9, 0.1];
    for _ in 0..498 {
        want += mass[0] * 0.99;
        mass = [mass[1] * 0.99, mass[0] * 0.99];
    }
    assert!((chain.expected(&rewards, Horizon::Tokens(499)) - want).abs() < 1e-10);
}

#[test]
fn data_counts_end_with_a_forced_eos() {
    let mut probs = chain(5, 3);
    for row in probs.chunks_exact_mut(6) {
        row[0] = 0.0;
        row[5] *= 0.001;
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= total);
    }
    let counts = Chain::new(5, &probs).counts_with_forced_eos(500);
    let eos: f64 = counts.chunks(6).map(|row| row[5]).sum();
    assert!((eos - 1.0).abs() < 1e-9, "every sequence has one EOS: {eos}");
    let begins: f64 = counts[..6].iter().sum();
    assert!((begins - 1.0).abs() < 1e-12);
    let flow: f64 = counts.iter().sum();
    assert!(flow < 500.0 && flow > 300.0);
    let one = Chain::new(5, &probs).counts_with_forced_eos(1);
    assert_eq!(one[5], 1.0);
    assert_eq!(one.iter().sum::<f64>(), 1.0);
}
