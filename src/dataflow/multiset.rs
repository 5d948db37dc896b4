//! Items in order, each as often as it is there.
//!
//! Kept in runs of some hundred items: one that comes last, as most do, is an append, and one that comes late moves no
//! more than its run. A set of one item takes little more than the item: most keys of a join have few rows.
//!
//! Invariants: items are distinct and in order over all runs, no run is empty, and no item is there less than once.
//! Neighbours: `overlap` keeps two for each key of a join.

/// Items of a run; one that reaches twice that is cut in half.
const RUN: usize = 256;

/// Items in order, each as often as it is there.
#[derive(Clone, Debug)]
pub struct Multiset<T> {
    runs: Vec<Vec<(T, i64)>>,
}

impl<T> Default for Multiset<T> {
    fn default() -> Multiset<T> {
        Multiset { runs: vec![] }
    }
}

impl<T: Ord> Multiset<T> {
    /// An item is there so many times more, or less.
    ///
    /// # Panics
    /// If more is taken back than was there: whoever gives changes has lost count.
    pub fn add(&mut self, item: T, times: i64) {
        if times == 0 {
            return;
        }
        let at = self.runs.partition_point(|run| run.last().is_some_and(|(last, _)| *last < item));
        let at = at.min(self.runs.len().saturating_sub(1));
        let Some(run) = self.runs.get_mut(at) else {
            assert!(times > 0, "nothing was there to be taken back");
            self.runs = vec![vec![(item, times)]];
            return;
        };

        match run.binary_search_by(|(there, _)| there.cmp(&item)) {
            Ok(n) => {
                run[n].1 += times;
                assert!(run[n].1 >= 0, "less was there than is taken back");
                if run[n].1 == 0 {
                    run.remove(n);
                }
            }
            Err(n) => {
                assert!(times > 0, "nothing was there to be taken back");
                run.insert(n, (item, times));
            }
        }

        match run.len() {
            0 => drop(self.runs.remove(at)),
            n if n >= 2 * RUN => {
                let tail = run.split_off(RUN);
                self.runs.insert(at + 1, tail);
            }
            _ => {}
        }
    }

    /// The items from the first on that is not `before`; all that are before come before all that are not.
    pub fn from(&self, before: impl Fn(&T) -> bool) -> impl Iterator<Item = (&T, i64)> {
        let first = self.runs.partition_point(|run| run.last().is_some_and(|(last, _)| before(last)));
        let skipped = self.runs.get(first).map_or(0, |run| run.partition_point(|(item, _)| before(item)));
        self.runs.iter().skip(first).flatten().skip(skipped).map(|(item, times)| (item, *times))
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn it_is_what_a_map_of_counts_is() {
        for seed in 0..4 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut set, mut map) = (Multiset::default(), BTreeMap::<u32, i64>::new());
            for n in 0..6_000 {
                // Grows by appends and by insertions, then shrinks to nothing.
                let item = if rng.random_bool(0.5) { n } else { rng.random_range(0..6_000) };
                let there = map.get(&item).copied().unwrap_or(0);
                let shrinks = n > 4_000 && rng.random_bool(0.9);
                let times = if there > 0 && (shrinks || rng.random_bool(0.3)) { -there } else { 2 };
                set.add(item, times);
                *map.entry(item).or_default() += times;
                map.retain(|_, times| *times != 0);
                if n % 97 == 0 {
                    let from = rng.random_range(0..6_000);
                    let got: Vec<(u32, i64)> = set.from(|i| *i < from).map(|(i, t)| (*i, t)).collect();
                    let want: Vec<(u32, i64)> = map.range(from..).map(|(i, t)| (*i, *t)).collect();
                    assert_eq!(got, want, "seed {seed}, step {n}");
                }
            }
            for (item, times) in std::mem::take(&mut map) {
                set.add(item, -times);
            }
            assert!(set.is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "less was there")]
    fn nothing_is_taken_back_twice() {
        let mut set = Multiset::default();
        set.add(7, 1);
        set.add(7, -2);
    }
}
