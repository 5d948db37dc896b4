//! How often each value is there, for as many values as there are: in order, in runs, so that a large one is written
//! back run by run.
//!
//! Invariants: keys are distinct and in order over all runs, counts are never zero, no run is empty. Neighbours:
//! `total` keeps one per aggregate that cannot be summed up, `aggregate` one per run of entries where a function reads all
//! values; `layout` gives each run of a large one a row of its own.

/// Values of a run; one with twice as many is cut in half.
const RUN: usize = 256;

/// Values and how often each is there.
#[derive(Clone, Debug)]
pub struct Tally<K> {
    runs: Vec<Run<K>>,
    len: usize,
    /// Name of the next run.
    next: u32,
}

/// Values next to each other.
#[derive(Clone, Debug)]
pub struct Run<K> {
    /// Names the run's row on disk, unique within its tally.
    pub id: u32,
    /// Changed since it was written back.
    pub dirty: bool,
    /// In order.
    pub counts: Vec<(K, i64)>,
}

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally { runs: vec![], len: 0, next: 0 }
    }
}

impl<K: Ord> Tally<K> {
    /// From what was written: the runs in order, and the name of the next one.
    pub fn from_runs(runs: Vec<Run<K>>, next: u32) -> Tally<K> {
        let runs: Vec<Run<K>> = runs.into_iter().filter(|r| !r.counts.is_empty()).collect();
        Tally { len: runs.iter().map(|r| r.counts.len()).sum(), runs, next }
    }

    /// A value is there so many times more, or less.
    pub fn add(&mut self, key: K, times: i64) {
        if times == 0 {
            return;
        }
        if self.runs.is_empty() {
            let id = self.name();
            self.runs.push(Run { id, dirty: true, counts: vec![] });
        }
        let at = self.runs.partition_point(|r| r.counts.last().is_some_and(|(last, _)| *last < key));
        let at = at.min(self.runs.len() - 1);
        let run = &mut self.runs[at];
        run.dirty = true;
        match run.counts.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(n) => {
                run.counts[n].1 += times;
                if run.counts[n].1 == 0 {
                    run.counts.remove(n);
                    self.len -= 1;
                }
            }
            Err(n) => {
                run.counts.insert(n, (key, times));
                self.len += 1;
            }
        }
        match run.counts.len() {
            0 => {
                self.runs.remove(at);
            }
            n if n >= 2 * RUN => {
                let counts = run.counts.split_off(RUN);
                let id = self.name();
                self.runs.insert(at + 1, Run { id, dirty: true, counts });
            }
            _ => {}
        }
    }

    fn name(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The least.
    pub fn first(&self) -> Option<&K> {
        self.runs.first()?.counts.first().map(|(k, _)| k)
    }

    /// The greatest.
    pub fn last(&self) -> Option<&K> {
        self.runs.last()?.counts.last().map(|(k, _)| k)
    }

    /// All values, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.runs.iter().flat_map(|r| &r.counts).map(|(k, _)| k)
    }

    /// All values with how often each is there, in order.
    pub fn counts(&self) -> impl DoubleEndedIterator<Item = &(K, i64)> {
        self.runs.iter().flat_map(|r| &r.counts)
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Run<K>] {
        &self.runs
    }

    /// Name of the next run.
    pub fn next_run(&self) -> u32 {
        self.next
    }

    /// Is it large enough for its runs to have rows of their own?
    pub fn has_own_rows(&self) -> bool {
        self.runs.len() > 1
    }

    /// Says that it has been written as it is.
    pub fn mark_clean(&mut self) {
        // A run that went with the page row needs a row of its own once there are more.
        let dirty = !self.has_own_rows();
        self.runs.iter_mut().for_each(|r| r.dirty = dirty);
    }
}
