//! Sums, gathered bytes and shards are the same on all ranks.
use super::*;

/// What each of some ranks returns.
pub(super) fn on_ranks<T: Send>(size: usize, work: impl Fn(&ThreadRank) -> T + Sync) -> Vec<T> {
    let ranks = ThreadRank::all(size, Duration::from_secs(30));
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || work(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_in_the_order_of_ranks_and_equal_on_all() {
    let terms = [1e8f32, 1.0, -1e8];
    let sums = on_ranks(3, |rank| {
        let mut values = [terms[rank.rank()], 1.0];
        rank.all_reduce_f32(&mut values, ReduceDtype::F32).unwrap();
        let mut doubles = [rank.rank() as f64 + 0.5];
        rank.all_reduce_f64(&mut doubles).unwrap();
        (values, doubles)
    });
    // 1e8 + 1 is 1e8 in f32.
    assert_eq!(sums, [([0.0, 3.0], [4.5]); 3]);
}

#[test]
fn bytes_of_any_length_are_gathered_and_broadcast() {
    let gathered = on_ranks(3, |rank| {
        let own = vec![rank.rank() as u8; rank.rank()];
        let all = rank.all_gather(own.clone()).unwrap();
        rank.barrier().unwrap();
        (all, rank.broadcast(vec![7 + rank.rank() as u8]).unwrap())
    });
    for (all, broadcast) in gathered {
        assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
        assert_eq!(broadcast, [7]);
    }
}

#[test]
fn tensors_are_summed_in_place() {
    let results = on_ranks(2, |rank| {
        let r = rank.rank() as f32;
        let small = Tensor::full(r, (2, 3), &Device::Cpu).unwrap();
        let large = Tensor::full(1.0 + r, 2 * MESSAGE + 5, &Device::Cpu).unwrap();
        rank.all_reduce(&[&small, &large]).unwrap();
        (small.sum_all().unwrap().to_scalar::<f32>().unwrap(), large.to_vec1::<f32>().unwrap())
    });
    for (small, large) in results {
        assert_eq!(small, 6.0);
        assert!(large.len() == 2 * MESSAGE + 5 && large.iter().all(|x| *x == 3.0));
    }
}

#[test]
fn shards_are_the_sums_of_an_all_reduce_and_gathered_the_whole() {
    let lengths = [6, 2 * MESSAGE + 5, 3];
    let shards = Shards::new(lengths, 3);
    let value = |rank: usize, i: usize| (1 + rank) as f32 * 0.1 + (i % 97) as f32;
    let results = on_ranks(3, |rank| {
        let tensors = || {
            lengths.map(|n| {
                let values: Vec<f32> = (0..n).map(|i| value(rank.rank(), i)).collect();
                Tensor::from_vec(values, n, &Device::Cpu).unwrap()
            })
        };
        let (whole, divided) = (tensors(), tensors());
        rank.all_reduce(&whole.each_ref()).unwrap();
        let mut reducer =
            Reducer::start(Arc::new(rank.clone()), &divided, Some(&shards), ReduceDtype::F32).unwrap();
        // The first tensor is complete last.
        reducer.complete_from(1);
        reducer.finish().unwrap();
        let values = |tensors: &[Tensor]| -> Vec<f32> {
            tensors.iter().flat_map(|tensor| tensor.to_vec1::<f32>().unwrap()).collect()
        };
        let (sums, own) = (values(&whole), shards.shard(rank.rank()));
        assert!(values(&divided)[own.clone()] == sums[own], "bit for bit");
        rank.all_gather_shards(&divided.each_ref(), &shards).unwrap();
        (sums, values(&divided))
    });
    for (sums, gathered) in &results {
        assert!(gathered == sums && *sums == results[0].0);
    }
}

#[test]
fn blocks_of_another_length_are_noticed() {
    for result in on_ranks(2, |rank| rank.all_gather_f32(&[1.0; 2], &[2, 3])) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::RanksDiffer { rank: 1, .. }), "{error}");
    }
    for result in on_ranks(2, |rank| rank.all_reduce_f32(&mut [1.0; 2][rank.rank()..], ReduceDtype::F32)) {
        assert!(matches!(result, Err(Error::RanksDiffer { .. })), "{result:?}");
    }
}
