//! Entries and updates as words: what a fold is fed, packed so that moving it is copying memory.
//!
//! An entry is `[event time, offset, origin | multiplicity, bits, values…]`, each a 64-bit word. `bits` holds a null
//! bit per value, then a bit per filter. The origin is the rank of the row's stream among the view's own (8 bits) and the
//! partition (24). A number is one word (a decimal two); bytes up to seven are in their word, longer
//! ones in the heap beside it. [`Updates`] is a batch of entries with their groups and epochs.
//!
//! Invariants: equal bytes have one representation (short ones are always inline), so most comparisons are of words.
//! Neighbours: `plan::project` makes batches, `fold::group` keeps entries, `fold::columns` turns both into Arrow.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::fold::plan::{FoldPlan, ValueType};
use crate::id::ViewId;
use crate::offset::PARTITIONS_MAX;

/// Word of the event time.
pub const EVENT_TIME: usize = 0;
/// Word of the offset.
pub const OFFSET: usize = 1;
/// Word of the origin (high half) and the multiplicity or diff (low half).
pub const PLACE: usize = 2;
/// Word of the null and filter bits.
pub const BITS: usize = 3;
/// First word of the values.
pub const VALUES: usize = 4;

/// Longest value kept, in bytes: 16 MiB less one. A row with a longer one is refused.
pub const BYTES_MAX: usize = (1 << 24) - 1;

/// Where each value of an entry lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Words of an entry.
    pub stride: usize,
    /// (first word, kind) of each value.
    pub slots: Vec<(usize, ValueType)>,
}

impl Shape {
    /// The shape of a plan's entries.
    pub fn of(plan: &FoldPlan) -> Shape {
        let mut at = VALUES;
        let mut slots = Vec::with_capacity(plan.values.len());
        for &kind in &plan.values {
            slots.push((at, kind));
            at += kind.words();
        }
        Shape { stride: at, slots }
    }
}

/// Bits of an [`Origin`] that hold the partition.
const PARTITION_BITS: u32 = PARTITIONS_MAX.trailing_zeros();
/// A view reads so many streams at most.
pub const STREAMS_MAX: usize = 1 << (u32::BITS - PARTITION_BITS);

/// Which stream a row is of, and which partition. It sorts like the stream's name, then like the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin(u32);

impl Origin {
    /// A partition of the stream with this rank among the view's: see [`FoldPlan::streams`].
    ///
    /// # Panics
    /// If the partition is not below [`PARTITIONS_MAX`]: a source refuses such a topic before it reads it.
    pub fn new(rank: u8, partition: i32) -> Origin {
        assert!((0..PARTITIONS_MAX).contains(&partition), "no source has a partition {partition}");
        Origin(u32::from(rank) << PARTITION_BITS | partition.cast_unsigned())
    }

    /// The rank of its stream.
    pub fn rank(self) -> u8 {
        u8::try_from(self.0 >> PARTITION_BITS).expect("eight bits are left")
    }

    /// Its partition.
    pub fn partition(self) -> i32 {
        (self.0 & (PARTITIONS_MAX.cast_unsigned() - 1)).cast_signed()
    }

    /// As it is stored.
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// From what was stored.
    pub(super) fn from_bits(bits: u32) -> Origin {
        Origin(bits)
    }
}

/// The origin and multiplicity as a word.
pub fn place(origin: Origin, multiplicity: i32) -> u64 {
    (u64::from(origin.0) << 32) | u64::from(multiplicity.cast_unsigned())
}

/// Packs bytes into a word, long ones by way of the heap.
pub fn pack_bytes(bytes: &[u8], heap: &mut Vec<u8>) -> u64 {
    if bytes.len() <= 7 {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        word[7] = u8::try_from(bytes.len()).expect("at most 7");
        return u64::from_le_bytes(word);
    }
    assert!(bytes.len() <= BYTES_MAX, "a row with a longer value is refused before it comes here");
    let at = u32::try_from(heap.len()).expect("a heap stays below 4 GiB: batches and chunks are bounded");
    heap.extend_from_slice(bytes);
    (0xFF << 56) | ((bytes.len() as u64) << 32) | u64::from(at)
}

/// Bytes behind a word.
pub enum Packed<'a> {
    /// In the word itself.
    Inline([u8; 8]),
    /// In the heap.
    Heap(&'a [u8]),
}

impl Packed<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Packed::Inline(word) => &word[..usize::from(word[7])],
            Packed::Heap(bytes) => bytes,
        }
    }
}

/// Unpacks what [`pack_bytes`] packed.
pub fn unpack_bytes(word: u64, heap: &[u8]) -> Packed<'_> {
    if word >> 56 != 0xFF {
        return Packed::Inline(word.to_le_bytes());
    }
    let at = (word & 0xFFFF_FFFF) as usize;
    let len = ((word >> 32) & 0xFF_FFFF) as usize;
    Packed::Heap(&heap[at..at + len])
}

/// One entry, borrowed.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Its words.
    pub words: &'a [u64],
    /// The heap that its long values are in.
    pub heap: &'a [u8],
}

impl<'a> Entry<'a> {
    /// µs since 1970.
    pub fn event_time(&self) -> i64 {
        self.words[EVENT_TIME].cast_signed()
    }

    /// Position in the partition.
    pub fn offset(&self) -> i64 {
        self.words[OFFSET].cast_signed()
    }

    /// Its stream and partition.
    pub fn origin(&self) -> Origin {
        Origin((self.words[PLACE] >> 32) as u32)
    }

    /// Event time, stream and partition, offset: where its event stands.
    pub fn place(&self) -> (i64, Origin, i64) {
        (self.event_time(), self.origin(), self.offset())
    }

    /// How often the row is there, or a change of that.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of the word")]
    pub fn multiplicity(&self) -> i32 {
        (self.words[PLACE] as u32).cast_signed()
    }

    /// Is the value null?
    pub fn is_null(&self, value: usize) -> bool {
        self.words[BITS] >> value & 1 == 1
    }

    /// Is the bit set (filters come after the values' null bits)?
    pub fn bit(&self, bit: usize) -> bool {
        self.words[BITS] >> bit & 1 == 1
    }

    /// A value of one word.
    pub fn word(&self, slot: usize) -> u64 {
        self.words[slot]
    }

    /// A decimal.
    pub fn wide(&self, slot: usize) -> i128 {
        (u128::from(self.words[slot]) | u128::from(self.words[slot + 1]) << 64).cast_signed()
    }

    /// Bytes.
    pub fn bytes(&self, slot: usize) -> Packed<'a> {
        unpack_bytes(self.words[slot], self.heap)
    }

    /// The total order of entries: event time, stream, partition, offset, then the values. 0 only for the same identity.
    pub fn compare(&self, other: &Entry<'_>, shape: &Shape) -> Ordering {
        self.place().cmp(&other.place()).then_with(|| self.compare_values(other, shape))
    }

    fn compare_values(&self, other: &Entry<'_>, shape: &Shape) -> Ordering {
        let mut order = self.words[BITS].cmp(&other.words[BITS]);
        for &(slot, kind) in &shape.slots {
            if order != Ordering::Equal {
                return order;
            }
            order = match kind {
                ValueType::Int | ValueType::Float => self.words[slot].cmp(&other.words[slot]),
                ValueType::Decimal => self.words[slot..slot + 2].cmp(&other.words[slot..slot + 2]),
                ValueType::Bytes => self.bytes(slot).as_slice().cmp(other.bytes(slot).as_slice()),
            };
        }
        order
    }

    /// Bytes of its long values in the heap.
    pub fn heap_bytes(&self, shape: &Shape) -> usize {
        let long = |(slot, kind): &&(usize, ValueType)| *kind == ValueType::Bytes && self.words[*slot] >> 56 == 0xFF;
        shape.slots.iter().filter(long).map(|(slot, _)| self.bytes(*slot).as_slice().len()).sum()
    }

    /// Appends the entry to a buffer of words, its long values to the heap beside it.
    pub fn append_to(&self, shape: &Shape, words: &mut Vec<u64>, heap: &mut Vec<u8>) {
        let at = words.len();
        words.extend_from_slice(&self.words[..shape.stride]);
        self.move_bytes(shape, &mut words[at..], heap);
    }

    /// Rewrites the long values of a copy of this entry to lie in `heap`.
    pub fn move_bytes(&self, shape: &Shape, copy: &mut [u64], heap: &mut Vec<u8>) {
        for &(slot, kind) in &shape.slots {
            if kind == ValueType::Bytes && self.words[slot] >> 56 == 0xFF {
                copy[slot] = pack_bytes(self.bytes(slot).as_slice(), heap);
            }
        }
    }
}

/// Set in [`Updates::counts_from`]'s companion: the row stops counting at that instant because a version ended.
pub const CLOSING: u8 = 1;

/// What the last step of one view is fed: a batch of updates, in no particular order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Updates {
    /// Which version of which view.
    pub view: ViewId,
    /// The worker that owns the groups of this batch.
    pub worker: u64,
    /// Hash of each group: which worker and which stripe owns it.
    pub hashes: Vec<u64>,
    /// End of each group's bytes.
    pub group_ends: Vec<u32>,
    /// The groups' bytes, one after another (Arrow's row format).
    pub group_bytes: Vec<u8>,
    /// Epoch of each update.
    pub epochs: Vec<u64>,
    /// From when each counts, where later than its event time; empty if none does.
    pub counts_from: Vec<i64>,
    /// [`CLOSING`] or 0; empty if all are 0.
    pub flags: Vec<u8>,
    /// The entries; the multiplicity is the update's diff.
    pub words: Vec<u64>,
    /// Long values.
    pub heap: Vec<u8>,
}

/// One update, borrowed from a batch.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// Hash of the group.
    pub hash: u64,
    /// The group's bytes.
    pub group: &'a [u8],
    /// Its epoch.
    pub epoch: u64,
    /// From when it counts: the event time or later.
    pub counts_from: i64,
    /// A version's end: see [`CLOSING`].
    pub closing: bool,
    /// The row; its multiplicity is the diff.
    pub entry: Entry<'a>,
}

impl Updates {
    /// None yet, of this view.
    pub fn of(view: ViewId) -> Updates {
        Updates {
            view,
            worker: 0,
            hashes: vec![],
            group_ends: vec![],
            group_bytes: vec![],
            epochs: vec![],
            counts_from: vec![],
            flags: vec![],
            words: vec![],
            heap: vec![],
        }
    }

    /// How many updates.
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// The n-th update.
    pub fn get(&self, n: usize, shape: &Shape) -> Update<'_> {
        let start = if n == 0 { 0 } else { self.group_ends[n - 1] as usize };
        let words = &self.words[n * shape.stride..(n + 1) * shape.stride];
        let entry = Entry { words, heap: &self.heap };
        let event_time = entry.event_time();
        Update {
            hash: self.hashes[n],
            group: &self.group_bytes[start..self.group_ends[n] as usize],
            epoch: self.epochs[n],
            counts_from: self.counts_from.get(n).map_or(event_time, |c| (*c).max(event_time)),
            closing: self.flags.get(n).is_some_and(|f| f & CLOSING != 0),
            entry,
        }
    }

    /// Appends one update of another batch of the same view.
    pub fn push(&mut self, update: &Update<'_>, shape: &Shape) {
        let n = self.len();
        self.hashes.push(update.hash);
        self.group_bytes.extend_from_slice(update.group);
        self.group_ends.push(u32::try_from(self.group_bytes.len()).expect("batches are bounded"));
        self.epochs.push(update.epoch);
        let event_time = update.entry.event_time();
        if update.counts_from > event_time || !self.counts_from.is_empty() {
            self.counts_from.resize(n, i64::MIN);
            self.counts_from.push(update.counts_from);
        }
        if update.closing || !self.flags.is_empty() {
            self.flags.resize(n, 0);
            self.flags.push(if update.closing { CLOSING } else { 0 });
        }
        update.entry.append_to(shape, &mut self.words, &mut self.heap);
    }
}

/// The hash of a group's bytes: which worker and which stripe owns it, and where segments sort it. A storage format.
pub fn hash_group(group: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(group)
}
