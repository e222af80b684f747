//! Who judges what, in which order, and which text is shown as A.

use mixce_base::rng::Stream;

use crate::study::Task;

/// Sizes of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Comparisons of each pair of systems.
    pub(crate) prompts: usize,
    /// Pairs of systems; item `pair * prompts + i` is prompt `i` of a pair.
    pub(crate) pairs: usize,
    /// Attention checks; their items follow the comparisons.
    pub(crate) checks: usize,
    pub(crate) judges: usize,
    pub(crate) judges_per_item: usize,
}

/// The tasks of each judge.
///
/// Every comparison goes to `judges_per_item` different judges, and the numbers of tasks of two judges differ by at most one. Of
/// a comparison's judges half see it swapped; with an odd number the larger half alternates over a pair's comparisons in random
/// order, so within a pair the sides differ by at most one. The order is random for each judge, with the checks, which all judges
/// see, spread over it: one at a random place in each of `checks` equal stretches.
pub(crate) fn plan(sizes: Sizes, stream: Stream) -> Vec<Vec<Task>> {
    let mut plan = vec![Vec::new(); sizes.judges];
    for pair in 0..sizes.pairs {
        let order = permutation(stream.fold(0).fold(pair as u64), sizes.prompts);
        for (place, prompt) in order.into_iter().enumerate() {
            let item = pair * sizes.prompts + prompt;
            let chosen = least_busy(&plan, sizes.judges_per_item, stream.fold(1).fold(item as u64));
            for (turn, judge) in chosen.into_iter().enumerate() {
                plan[judge].push(Task { judge: judge + 1, item, swapped: (turn + place) % 2 == 1 });
            }
        }
    }
    for (judge, tasks) in plan.iter_mut().enumerate() {
        let stream = stream.fold(2).fold(judge as u64);
        let order = permutation(stream.fold(0), tasks.len());
        let comparisons: Vec<Task> = order.into_iter().map(|i| tasks[i]).collect();
        *tasks = with_checks(comparisons, judge, sizes, stream);
    }
    plan
}

/// The `count` judges with the fewest tasks, in random order; ties are broken at random.
fn least_busy(plan: &[Vec<Task>], count: usize, stream: Stream) -> Vec<usize> {
    let mut judges = permutation(stream.fold(0), plan.len());
    judges.sort_by_key(|&judge| plan[judge].len());
    judges.truncate(count);
    permutation(stream.fold(1), judges.len()).into_iter().map(|i| judges[i]).collect()
}

fn with_checks(comparisons: Vec<Task>, judge: usize, sizes: Sizes, stream: Stream) -> Vec<Task> {
    let checks = sizes.checks;
    let order = permutation(stream.fold(1), checks);
    // Every second check is swapped, in random order.
    let sides = permutation(stream.fold(2), checks);
    let total = comparisons.len() + checks;
    let mut rest = comparisons.into_iter();
    let mut tasks = Vec::with_capacity(total);
    for check in 0..checks {
        let (start, end) = (check * total / checks, (check + 1) * total / checks);
        let place = start + stream.fold(3).below(check as u64, (end - start) as u64) as usize;
        tasks.extend(rest.by_ref().take(place - tasks.len()));
        let item = sizes.pairs * sizes.prompts + order[check];
        tasks.push(Task { judge: judge + 1, item, swapped: sides[check] % 2 == 1 });
        tasks.extend(rest.by_ref().take(end - tasks.len()));
    }
    tasks.extend(rest);
    tasks
}

/// A random order of `0..n`.
pub(crate) fn permutation(stream: Stream, n: usize) -> Vec<usize> {
    // Sizes are bounded when the settings are checked.
    stream.permutation(n as u32).into_iter().map(|i| i as usize).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn plans_are_complete_and_balanced(
            seed: u64, prompts in 1usize..30, pairs in 1usize..4, checks in 0usize..6, judges in 1usize..8, k in 1usize..8,
        ) {
            let sizes = Sizes { prompts, pairs, checks, judges, judges_per_item: k.min(judges) };
            let plan = plan(sizes, Stream::new(seed));
            let comparisons = prompts * pairs;
            let mut judges_of: HashMap<usize, HashSet<usize>> = HashMap::new();
            for (judge, tasks) in plan.iter().enumerate() {
                for task in tasks {
                    prop_assert_eq!(task.judge, judge + 1);
                    prop_assert!(judges_of.entry(task.item).or_default().insert(judge), "repeated");
                }
            }
            prop_assert_eq!(judges_of.len(), comparisons + checks);
            for (item, of) in judges_of {
                prop_assert_eq!(of.len(), if item < comparisons { sizes.judges_per_item } else { judges });
            }
            let lengths: Vec<usize> = plan.iter().map(Vec::len).collect();
            prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{:?}", lengths);
            let difference = |keep: &dyn Fn(usize) -> bool| {
                let kept = plan.iter().flatten().filter(|task| keep(task.item));
                kept.map(|task| if task.swapped { 1i64 } else { -1 }).sum::<i64>().abs()
            };
            for item in 0..comparisons {
                prop_assert!(difference(&|i| i == item) <= 1);
            }
            for pair in 0..pairs {
                prop_assert!(difference(&|i| i < comparisons && i / prompts == pair) <= 1);
            }
        }
    }

    #[test]
    fn checks_are_spread_and_orders_differ() {
        let sizes = Sizes { prompts: 40, pairs: 1, checks: 4, judges: 3, judges_per_item: 3 };
        let made = plan(sizes, Stream::new(1));
        for tasks in &made {
            let places: Vec<usize> = (0..44).filter(|&i| tasks[i].item >= 40).collect();
            assert!(places.iter().enumerate().all(|(i, place)| place / 11 == i), "{places:?}");
        }
        let items = |judge: usize| made[judge].iter().map(|task| task.item).collect::<Vec<_>>();
        assert_ne!(items(0), items(1));
        assert_eq!(made, plan(sizes, Stream::new(1)));
        assert_ne!(made, plan(sizes, Stream::new(2)));
    }

    /// With half of the judges per item, every two judges share items, which agreement needs.
    #[test]
    fn judges_overlap() {
        let made =
            plan(Sizes { prompts: 60, pairs: 1, checks: 0, judges: 6, judges_per_item: 3 }, Stream::new(5));
        let sets: Vec<HashSet<usize>> = made.iter().map(|t| t.iter().map(|t| t.item).collect()).collect();
        for (a, b) in (0..6).flat_map(|a| (0..a).map(move |b| (a, b))) {
            assert!(sets[a].intersection(&sets[b]).count() >= 4);
        }
    }
}
