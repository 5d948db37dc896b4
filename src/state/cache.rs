//! Pages in memory, shared by the workers that write them and the threads that read them; what is written back, and when.
//!
//! Each view has striped maps of pages. A published commit is an epoch and the instant from which it is visible; readers
//! register the one that is published when they begin, so that no page moves past it under them.
//!
//! Invariants: nothing is merged above the published epoch or above a registered reader's; a write-back pass that came to
//! a view at epoch `P` leaves each of its pages' rows with all updates up to `P`, and only then does the view's redo point
//! become `P`, whatever the others' are; page rows and the count of them are written in one batch.
//! Neighbours: `page` is one group; `commit` makes epochs durable before they are published here; `online` reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashTable;
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::check::{PageCount, count_key};
use super::log::redo_key;
use super::page::{PREFIX, Page, PageRows, Unanswered};
#[cfg(doc)]
use super::published::Board;
pub use super::published::{Hold, Published};
use super::{StateError, Store};
use crate::fold::entry::{Updates, hash_group};
use crate::fold::{Evaluation, Fold, Wanted};
use crate::id::ViewId;
use crate::plan::Plan;

/// Many: whoever writes a stripe's pages back holds it, and a reader must not notice.
const STRIPES: usize = 4096;

/// Pages written back in one batch, at most.
const BATCH: usize = 128;

struct ViewPages {
    id: ViewId,
    fold: Arc<Fold>,
    stripes: Vec<Mutex<HashTable<Page>>>,
    groups: AtomicU64,
}

/// All pages of all views.
pub struct Cache {
    store: Arc<Store>,
    views: Vec<ViewPages>,
    /// Whether a group that is not in memory may have a row: the store had some when it was opened, or pages were evicted.
    on_disk: AtomicBool,
    /// Bytes of pages to be kept in memory, about.
    memory_max: AtomicU64,
    /// Bytes of all pages as of the last pass over them, if there is a limit.
    passed: AtomicU64,
    /// Bytes of updates taken since it began.
    grown: AtomicU64,
    /// The last pass found too few idle pages: the next lets go of others, too.
    pressed: AtomicBool,
    evicted: AtomicU64,
    /// The stripe, over all views, at which the next pass begins: each loses pages in its turn.
    hand: AtomicUsize,
    /// What was counted of each view's page rows; held while rows are written.
    counts: Mutex<Vec<PageCount>>,
}

/// What readers ask: how it went.
#[derive(Debug)]
pub enum Read {
    /// The answer.
    Answer(Evaluation),
    /// The group has never had a row.
    Nothing,
    /// The page is past that stamp; the log has it.
    NeedsLog,
}

impl Cache {
    /// An empty cache over a store, showing what the store's board does.
    ///
    /// # Errors
    /// Page counts that cannot be read; pages are read when they are asked for.
    pub fn new(store: Arc<Store>, plan: &Plan) -> Result<Cache, StateError> {
        let views = plan.views.iter().enumerate().map(|(n, v)| ViewPages {
            id: store.ids().view(n),
            fold: Arc::clone(&v.fold),
            stripes: (0..STRIPES).map(|_| Mutex::new(HashTable::new())).collect(),
            groups: AtomicU64::new(0),
        });
        let counts = store.ids().views().map(|view| store.page_count(view)).collect::<Result<Vec<_>, _>>()?;
        let on_disk = AtomicBool::new(counts.iter().any(|count| count.rows > 0));
        let views = views.collect();
        Ok(Cache {
            views,
            on_disk,
            memory_max: AtomicU64::new(u64::MAX),
            passed: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            pressed: AtomicBool::new(false),
            evicted: AtomicU64::new(0),
            hand: AtomicUsize::new(0),
            counts: Mutex::new(counts),
            store,
        })
    }

    /// What readers may see.
    pub fn published(&self) -> Published {
        self.store.board().published()
    }

    /// Makes a commit readable: see [`Board::publish`].
    pub fn publish(&self, epoch: u64, visible: i64) {
        self.store.board().publish(epoch, visible);
    }

    /// Lets the instant of live answers rise: see [`Board::advance`].
    pub fn advance(&self, through: i64) {
        self.store.board().advance(through);
    }

    /// For whoever waits for a commit or an instant without a thread: see [`Board::watch`].
    pub fn watch(&self) -> tokio::sync::watch::Receiver<Published> {
        self.store.board().watch()
    }

    /// Waits until something is published that `enough` accepts: see [`Board::wait`].
    pub fn wait(&self, timeout: Duration, enough: impl Fn(&Published) -> bool) -> Published {
        self.store.board().wait(timeout, enough)
    }

    /// Takes what is published, and holds its epoch.
    pub fn hold_published(&self) -> (Published, Hold<'_>) {
        self.store.board().hold()
    }

    /// Up to where pages may be merged now.
    fn limit(&self) -> u64 {
        self.store.board().limit()
    }

    /// Puts updates into the pages of their groups. They are seen once their epochs are published.
    ///
    /// # Errors
    /// A page row that cannot be read.
    pub fn push(&self, updates: &Updates) -> Result<(), StateError> {
        self.take(updates, self.limit())
    }

    /// Puts updates back that were committed before: pages that contain their epochs skip them. `complete`: up to where
    /// all have been put back; a page that has taken one update of a later epoch may still lack the next.
    ///
    /// # Errors
    /// A page row that cannot be read.
    pub fn redo(&self, updates: &Updates, complete: u64) -> Result<(), StateError> {
        self.take(updates, complete)
    }

    fn take(&self, updates: &Updates, limit: u64) -> Result<(), StateError> {
        let index = self.store.ids().view_index(updates.view).expect("updates are of views that the store knows");
        let view = &self.views[index];
        let bytes = updates.len() * (PREFIX + view.fold.shape.stride) * 8 + updates.heap.len();
        self.grown.fetch_add(bytes as u64, Ordering::Relaxed);
        for n in 0..updates.len() {
            let update = updates.get(n, &view.fold.shape);
            let mut stripe = view.stripes[stripe_of(update.hash)].lock();
            let page = self.page(index, update.hash, update.group, &mut stripe, true)?;
            if let Some(page) = page {
                page.merge(limit, &view.fold);
                page.push(&update, &view.fold);
            }
        }
        Ok(())
    }

    fn page<'a>(
        &self,
        view: usize,
        hash: u64,
        key: &[u8],
        stripe: &'a mut HashTable<Page>,
        make: bool,
    ) -> Result<Option<&'a mut Page>, StateError> {
        use hashbrown::hash_table::Entry;
        let slot = match stripe.entry(hash, |p| *p.key == *key, |p| p.hash) {
            Entry::Occupied(slot) => return Ok(Some(slot.into_mut())),
            Entry::Vacant(slot) => slot,
        };
        let loaded = if self.on_disk.load(Ordering::Acquire) { self.load(view, hash, key)? } else { None };
        let fold = &self.views[view].fold;
        let page = match loaded {
            Some(page) => {
                // Reads alone fill memory, too.
                self.grown.fetch_add(page.bytes() as u64, Ordering::Relaxed);
                page
            }
            None if make => Page::new(hash, key, fold),
            None => return Ok(None),
        };
        self.views[view].groups.fetch_add(1, Ordering::Relaxed);
        Ok(Some(slot.insert(page).into_mut()))
    }

    fn load(&self, view: usize, hash: u64, key: &[u8]) -> Result<Option<Page>, StateError> {
        let mut row_key = self.views[view].id.to_be_bytes().to_vec();
        row_key.extend(key);
        let Some(row) = self.store.db().get_cf(&self.store.family("pages"), &row_key)? else { return Ok(None) };
        let chunks = self.store.family("chunks");
        let mut failed = None;
        let page = Page::load(hash, key, &row, &self.views[view].fold, |id| {
            let mut key = row_key.clone();
            key.extend(id.to_be_bytes());
            self.store.db().get_cf(&chunks, key).unwrap_or_else(|e| {
                failed = Some(e);
                None
            })
        });
        if let Some(e) = failed {
            return Err(e.into());
        }
        page.map(Some).map_err(|e| StateError::Damaged { what: format!("a page of group {key:?}"), why: e.to_string() })
    }

    /// Reads one group at a stamp.
    ///
    /// # Errors
    /// A page row that cannot be read.
    pub fn read(&self, view: usize, key: &[u8], epoch: u64, now: i64) -> Result<Read, StateError> {
        self.read_some(view, key, epoch, now, &Wanted::ALL)
    }

    /// The same, of the aggregates that are asked for; the others are null.
    ///
    /// # Errors
    /// As of [`Cache::read`].
    pub fn read_some(&self, view: usize, key: &[u8], epoch: u64, now: i64, asked: &Wanted) -> Result<Read, StateError> {
        let read = self.read_once(view, key, (epoch, now), false, asked)?;
        Ok(read.expect("whoever is not patient is answered from a copy"))
    }

    /// The same without a large copy. `None`: another reader holds the page behind that epoch, and the group is large; ask
    /// again in a moment.
    ///
    /// # Errors
    /// As of [`Cache::read`].
    pub fn try_read(
        &self,
        view: usize,
        key: &[u8],
        epoch: u64,
        now: i64,
        asked: &Wanted,
    ) -> Result<Option<Read>, StateError> {
        self.read_once(view, key, (epoch, now), true, asked)
    }

    fn read_once(
        &self,
        view: usize,
        key: &[u8],
        (epoch, now): (u64, i64),
        patient: bool,
        asked: &Wanted,
    ) -> Result<Option<Read>, StateError> {
        let hash = hash_group(key);
        let (pages, limit) = (&self.views[view], self.limit());
        let mut stripe = pages.stripes[stripe_of(hash)].lock();
        let Some(page) = self.page(view, hash, key, &mut stripe, false)? else { return Ok(Some(Read::Nothing)) };
        Ok(match page.read(epoch, now, limit, patient, asked, &pages.fold) {
            Ok(answer) => Some(Read::Answer(answer)),
            Err(Unanswered::NeedsLog) => Some(Read::NeedsLog),
            Err(Unanswered::HeldBack) => None,
        })
    }

    /// Writes all dirty pages back, as of the last commit, and moves each view's redo point there once its pages are written.
    /// Returns how many were written.
    ///
    /// # Errors
    /// The store's. The redo points of views that are not done stay where they were, and the cache is of no use any more:
    /// pages count as written whose rows were not. Whoever gets one opens the store anew.
    pub fn write_back(&self) -> Result<usize, StateError> {
        self.write_back_at_ease(|| ())
    }

    /// The same beside other work: `rest` is called after each part of it, and may wait.
    ///
    /// # Errors
    /// As of [`Cache::write_back`].
    pub fn write_back_at_ease(&self, mut rest: impl FnMut()) -> Result<usize, StateError> {
        let mut written = 0;
        let mut passes: Vec<(Option<u64>, usize)> = vec![(None, STRIPES); self.views.len()];
        let limit = self.memory_max.load(Ordering::Relaxed);
        let (limited, mut bytes) = (limit != u64::MAX, 0);
        let grown = self.grown.swap(0, Ordering::Relaxed);
        let wanted = self.passed.load(Ordering::Relaxed).saturating_add(grown).saturating_sub(limit);
        let (mut excess, mut idle) = (wanted, 0);
        let pressed = self.pressed.load(Ordering::Relaxed);
        let stripes = self.views.len() * STRIPES;
        let (first, mut hand) = (self.hand.load(Ordering::Relaxed), None);

        let mut rows: Vec<(usize, Vec<u8>, PageRows)> = vec![];
        for n in (0..stripes).map(|n| (first + n) % stripes) {
            let (view, at_stripe) = (n / STRIPES, n % STRIPES);
            let pages = &self.views[view];
            // No reader can register below the published epoch later on, so no page of the view stays behind this one.
            let at = *passes[view].0.get_or_insert_with(|| self.limit());
            let mut stripe = pages.stripes[at_stripe].lock();
            if excess > 0 {
                let freed = self.evict(&mut stripe, pages, excess, Page::is_idle);
                (excess, idle) = (excess.saturating_sub(freed), idle + freed);
                hand = Some(n + 1);
            }
            for page in stripe.iter_mut() {
                if limited {
                    bytes += page.bytes() as u64;
                }
                let Some(out) = page.write_back(at, &pages.fold) else { continue };
                let mut key = pages.id.to_be_bytes().to_vec();
                key.extend(&*page.key);
                rows.push((view, key, out));
            }
            drop(stripe);
            // Not under the stripe's lock: whoever reads or feeds its pages does not wait for the disk.
            let let_go = pressed && excess > 0;
            if rows.len() >= BATCH || let_go {
                written += rows.len();
                self.write_rows(&mut rows)?;
                rest();
            }
            // Now that their rows are in the store.
            if let_go {
                let mut stripe = pages.stripes[at_stripe].lock();
                excess = excess.saturating_sub(self.evict(&mut stripe, pages, excess, Page::is_clean));
            }
            passes[view].1 -= 1;
            if passes[view].1 == 0 {
                // In this order: until every page of the view has its row, a restart redoes from where it was.
                written += rows.len();
                self.write_rows(&mut rows)?;
                self.move_redo_point(pages.id, at)?;
            }
        }

        hand.into_iter().for_each(|n| self.hand.store(n % stripes, Ordering::Relaxed));
        self.passed.store(bytes, Ordering::Relaxed);
        self.pressed.store(idle < wanted, Ordering::Relaxed);
        Ok(written)
    }

    fn move_redo_point(&self, view: ViewId, at: u64) -> Result<(), StateError> {
        match self.store.redo_point(view)? < at {
            true => self.store.put_meta(&redo_key(view), &at.to_be_bytes()),
            false => Ok(()),
        }
    }

    /// Drops pages of a stripe that may go, up to so many bytes. A page that this pass still has to write is not among
    /// them: its row is not in the store before the pass has gone on.
    fn evict(
        &self,
        stripe: &mut HashTable<Page>,
        view: &ViewPages,
        excess: u64,
        may_go: impl Fn(&mut Page) -> bool,
    ) -> u64 {
        let mut freed = 0;
        if excess == 0 {
            return 0;
        }
        stripe.retain(|page| {
            let goes = may_go(page) && freed < excess;
            if goes {
                // Before the page is gone: whoever misses it next looks for its row.
                self.on_disk.store(true, Ordering::Release);
                freed += page.bytes() as u64;
                self.evicted.fetch_add(1, Ordering::Relaxed);
                view.groups.fetch_sub(1, Ordering::Relaxed);
            }
            !goes
        });
        freed
    }

    fn write_rows(&self, rows: &mut Vec<(usize, Vec<u8>, PageRows)>) -> Result<(), StateError> {
        if rows.is_empty() {
            return Ok(());
        }
        let (pages, chunks) = (self.store.family("pages"), self.store.family("chunks"));
        let mut batch = WriteBatch::default();
        let mut counts = self.counts.lock();
        let before = counts.clone();
        for (view, key, row) in rows.drain(..) {
            let chunk_key = |id: u64| [key.as_slice(), &id.to_be_bytes()].concat();
            for (id, bytes) in &row.chunks {
                batch.put_cf(&chunks, chunk_key(*id), bytes);
            }
            for id in &row.dropped {
                batch.delete_cf(&chunks, chunk_key(*id));
            }
            batch.put_cf(&pages, &key, &row.page);
            counts[view].replace(row.digests.0, row.digests.1);
        }
        for (view, count) in counts.iter().enumerate().filter(|(n, count)| before[*n] != **count) {
            batch.put_cf(&self.store.family("meta"), count_key(self.views[view].id), count.bytes());
        }
        self.store.write(batch, false)
    }

    /// The groups of a view that have a row on disk or in memory.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn groups(&self, view: usize) -> Result<std::collections::BTreeSet<Vec<u8>>, StateError> {
        let mut groups = std::collections::BTreeSet::new();
        for stripe in &self.views[view].stripes {
            groups.extend(stripe.lock().iter().map(|p| p.key.to_vec()));
        }
        let prefix = self.views[view].id.to_be_bytes();
        let mode = rocksdb::IteratorMode::From(&prefix, rocksdb::Direction::Forward);
        for row in self.store.db().iterator_cf(&self.store.family("pages"), mode) {
            let (key, _) = row?;
            let Some(group) = key.strip_prefix(&prefix) else { break };
            groups.insert(group.to_vec());
        }
        Ok(groups)
    }

    /// From now on about so many bytes of pages are kept in memory; the others are read again when they are asked for.
    pub fn keep_in_memory(&self, bytes: u64) {
        self.memory_max.store(bytes, Ordering::Relaxed);
    }

    /// Is more in memory than should be, as far as is known between two passes?
    pub fn is_over_memory(&self) -> bool {
        let known = self.passed.load(Ordering::Relaxed).saturating_add(self.grown.load(Ordering::Relaxed));
        known > self.memory_max.load(Ordering::Relaxed)
    }

    /// Pages dropped from memory so far.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Pages of a view in memory.
    pub fn resident(&self, view: usize) -> u64 {
        self.views[view].groups.load(Ordering::Relaxed)
    }

    /// Bytes of the pages of a view, counted now, page by page.
    pub fn memory(&self, view: usize) -> usize {
        let stripes = &self.views[view].stripes;
        stripes.iter().map(|s| s.lock().iter().map(Page::bytes).sum::<usize>()).sum()
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

/// The stripe of a group: other bits of the hash than those that choose the worker.
fn stripe_of(hash: u64) -> usize {
    (hash >> 32) as usize % STRIPES
}
