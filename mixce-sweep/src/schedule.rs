//! Runs dependent tasks on several workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Indices of the tasks that must have ended before, however they ended.
    pub after: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
}

struct Queue<'a> {
    tasks: &'a [Task],
    states: Mutex<Vec<State>>,
    changed: Condvar,
    stop: &'a AtomicBool,
}

/// Calls `work` with the index of every task, at most `workers` at a time, the first ready one first. Once `stop` is set, no task is begun.
/// Tasks that wait for each other in a circle are never begun.
pub fn run(tasks: &[Task], workers: usize, stop: &AtomicBool, work: &(dyn Fn(usize) + Sync)) {
    let states = Mutex::new(vec![State::Waiting; tasks.len()]);
    let queue = Queue { tasks, states, changed: Condvar::new(), stop };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(tasks.len()) {
            scope.spawn(|| {
                while let Some(ended) = queue.next() {
                    work(ended.task);
                }
            });
        }
    });
}

impl<'a> Queue<'a> {
    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a ready task and takes it; none when nothing is left that could become ready.
    fn next(&'a self) -> Option<EndOnDrop<'a>> {
        let mut states = self.states();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let is_ready = |task: &usize| {
                let mut after = self.tasks[*task].after.iter();
                states[*task] == State::Waiting
                    && after.all(|before| states.get(*before) == Some(&State::Ended))
            };
            if let Some(task) = (0..self.tasks.len()).find(is_ready) {
                states[task] = State::Running;
                return Some(EndOnDrop { queue: self, task });
            }
            if !states.contains(&State::Running) {
                return None;
            }
            states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A running task; ended on drop, so that a panic leaves no worker waiting.
struct EndOnDrop<'a> {
    queue: &'a Queue<'a>,
    task: usize,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.queue.states()[self.task] = State::Ended;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn order(tasks: &[Task], workers: usize) -> Vec<usize> {
        let order = Mutex::new(Vec::new());
        run(tasks, workers, &AtomicBool::new(false), &|task| order.lock().unwrap().push(task));
        order.into_inner().unwrap()
    }

    proptest! {
        #[test]
        fn every_task_runs_once_and_after_those_before_it(
            edges in proptest::collection::vec((0usize..12, 0usize..12), 0..30),
            workers in 1usize..5,
        ) {
            let mut tasks = vec![Task::default(); 12];
            for (a, b) in edges {
                if a != b {
                    tasks[a.max(b)].after.push(a.min(b));
                }
            }
            let order = order(&tasks, workers);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..12).collect::<Vec<_>>());
            if workers == 1 {
                let place = |task: usize| order.iter().position(|t| *t == task);
                for (index, task) in tasks.iter().enumerate() {
                    prop_assert!(task.after.iter().all(|before| place(*before) < place(index)));
                }
            }
        }
    }

    #[test]
    fn one_worker_keeps_the_order() {
        let tasks = [Task { after: vec![2] }, Task::default(), Task::default()];
        assert_eq!(order(&tasks, 1), [1, 2, 0]);
        assert_eq!(order(&[], 3), [0; 0]);
    }

    #[test]
    fn workers_run_side_by_side_and_not_more_of_them() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        run(&vec![Task::default(); 8], 3, &AtomicBool::new(false), &|_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert!((2..=3).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_stop_and_a_circle_end_the_run() {
        let stop = AtomicBool::new(false);
        let count = AtomicUsize::new(0);
        run(&vec![Task::default(); 5], 1, &stop, &|_| {
            count.fetch_add(1, Ordering::SeqCst);
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(order(&[Task { after: vec![1] }, Task { after: vec![0] }, Task::default()], 2), [2]);
    }
}
