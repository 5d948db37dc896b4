//! Whatever is changed behind the engine's back, row by row, `verify --all` notices; files are for `damage`.

use std::path::{Path, PathBuf};

use headwater::fold::{Fold, layout};
use headwater::id::ViewId;
use headwater::source::replay::ReplayClock;
use headwater::state::page::{Header, row_digest};
use headwater::state::{FAMILIES, Store};
use rocksdb::{DB, IteratorMode, Options, WriteBatch};

use super::oracle::deployment;
use super::support::{Deployment, How, Loaded};

/// A store with segments, and one whose log is all in the tail; each is copied before it is changed.
struct Stores {
    deployment: Deployment,
    loaded: Loaded,
}

impl Stores {
    fn new() -> Stores {
        let deployment = deployment(7, 120);
        let loaded = deployment.load();
        let how = How { clock: ReplayClock::Event, workers: 1, cut: 60, kills: 0, seed: 7 };
        loaded.replay(&deployment.path("sealed"), &how);
        loaded.take_in(&deployment.path("tail"), &how);
        // A directory that was cleanly stopped is refused when anything was written to it: what else is noticed?
        drop(Store::open(&deployment.path("sealed"), &loaded.plan).expect("it opens"));
        let stores = Stores { deployment, loaded };
        for made in ["sealed", "tail"] {
            stores.check("nothing", made, 0, "differing=0", |_| ());
        }
        stores
    }

    fn verify(&self, data: &str) -> super::support::Done {
        self.deployment.run("verify", data, &["--all", "--seed", "1"])
    }

    /// Changes a copy of a store; then `verify --all` ends so, and says this.
    #[track_caller]
    fn check(&self, what: &str, made: &str, code: i32, says: &str, change: impl FnOnce(&Path)) {
        let name = format!("copy_{}", what.replace([' ', '/'], "_"));
        let copy = self.deployment.path(&name);
        copy_dir(&self.deployment.path(made), &copy);
        change(&copy);
        eprintln!("{what} of {made}");
        self.verify(&name).expect(code, &[says]);
        std::fs::remove_dir_all(&copy).expect("it can go");
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("readable").path();
        let to = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copied");
        }
    }
}

pub(crate) fn open(data: &Path) -> DB {
    DB::open_cf(&Options::default(), data.join("db"), FAMILIES).expect("nobody else has it open")
}

/// Rewrites the first row of a family for which `change` gives other bytes; none at all deletes it.
fn rewrite(data: &Path, family: &str, change: impl Fn(&[u8], &[u8]) -> Option<Option<Vec<u8>>>) {
    let db = open(data);
    let handle = db.cf_handle(family).expect("all families exist");
    for row in db.iterator_cf(&handle, IteratorMode::Start) {
        let (key, value) = row.expect("readable");
        match change(&key, &value) {
            None => {}
            Some(Some(other)) => {
                assert_ne!(*other, *value, "nothing changed");
                return db.put_cf(&handle, key, other).expect("written");
            }
            Some(None) => return db.delete_cf(&handle, key).expect("deleted"),
        }
    }
    panic!("no row of `{family}` could be changed");
}

/// A page row of which one bit is other, so that it is still a page row and answers otherwise at `now`.
fn other_page(key: &[u8], row: &[u8], fold: &Fold, now: i64) -> Option<Vec<u8>> {
    let answer = |row: &[u8]| {
        let mut group = layout::decode(row.get(Header::LEN..)?, fold, |_| None).ok()?;
        if group.floor() > now {
            return None;
        }
        group.advance(now, fold);
        Some(format!("{:?}", group.evaluate(now, fold).values))
    };
    let was = answer(row)?;
    // Behind the format and the group's own header.
    (Header::LEN + 49..row.len()).find_map(|at| {
        let mut other = row.to_vec();
        other[at] ^= 1;
        (answer(&other)? != was).then(|| {
            let digest = row_digest(&key[4..], &other[8..]);
            other[..8].copy_from_slice(&digest.to_le_bytes());
            other
        })
    })
}

/// Replaces a page by another, with the digest and the count that a writer with a bug would give it.
fn forge_page(data: &Path, view: ViewId, fold: &Fold, now: i64) {
    let db = open(data);
    let (pages, meta) = (db.cf_handle("pages").expect("there"), db.cf_handle("meta").expect("there"));
    let rows = db.iterator_cf(&pages, IteratorMode::Start).map(|row| row.expect("readable"));
    let mut rows = rows.filter(|(key, _)| key.starts_with(&view.to_be_bytes()));
    let forged = rows.find_map(|(key, row)| Some((other_page(&key, &row, fold, now)?, key, row)));
    let (other, key, row) = forged.expect("some page can be changed");
    let digest = |row: &[u8]| u64::from_le_bytes(row[..8].try_into().expect("eight bytes"));
    let name = format!("pages:{view}");
    let mut count = db.get_cf(&meta, &name).expect("readable").expect("they are counted");
    let sum = u64::from_be_bytes(count[8..].try_into().expect("sixteen bytes"));
    let sum = sum.wrapping_sub(digest(&row)).wrapping_add(digest(&other));
    count[8..].copy_from_slice(&sum.to_be_bytes());
    let mut batch = WriteBatch::default();
    batch.put_cf(&pages, key, other);
    batch.put_cf(&meta, name, count);
    db.write(batch).expect("written");
}

pub(crate) fn files(dir: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() { files(path, found) } else { found.push(path) }
    }
    found.sort();
}

#[test]
fn a_changed_page_is_noticed() {
    let stores = Stores::new();
    let opened = stores.loaded.open(&stores.deployment.path("sealed"));
    let last = opened.store.last_commit().expect("readable").expect("there is one");
    for (view, planned) in stores.loaded.plan.views.iter().enumerate() {
        let (id, name) = (opened.store.ids().view(view), &planned.plan.name);
        let prefix = id.to_be_bytes();
        let of_view = |key: &[u8]| key.starts_with(&prefix);
        stores.check(&format!("{name} forged"), "sealed", 3, ": pages say", |data| {
            forge_page(data, id, &planned.fold, last.visible);
        });
        stores.check(&format!("{name} gone"), "sealed", 1, "rows of it are there", |data| {
            rewrite(data, "pages", |key, _| of_view(key).then_some(None));
        });
        stores.check(&format!("{name} altered"), "sealed", 1, "it is not as it was written", |data| {
            rewrite(data, "pages", |key, row| {
                let mut other = row.to_vec();
                *other.last_mut()? ^= 1;
                of_view(key).then_some(Some(other))
            });
        });
    }
}

#[test]
fn a_changed_log_is_noticed() {
    let stores = Stores::new();
    let flipped = |_: &[u8], value: &[u8]| {
        let mut other = value.to_vec();
        let middle = other.len() / 2;
        *other.get_mut(middle)? ^= 1;
        Some(Some(other))
    };
    for kind in [b'e', b'u'] {
        let of = |key: &[u8]| key[0] == kind;
        let name = char::from(kind);
        stores.check(&format!("flip in log {name}"), "tail", 1, "its digest is not its commit's", |data| {
            rewrite(data, "log", |k, v| of(k).then(|| flipped(k, v)).flatten());
        });
        stores.check(&format!("log record {name} gone"), "tail", 1, "it is missing", |data| {
            rewrite(data, "log", |k, _| of(k).then_some(None));
        });
    }
    for made in ["sealed", "tail"] {
        stores.check("first commit gone", made, 1, "the commit up to", |data| {
            rewrite(data, "commits", |_, _| Some(None));
        });
        stores.check("first commit altered", made, 1, "commit", |data| {
            rewrite(data, "commits", |k, v| flipped(k, v));
        });
        // A view's refusal is a row all the same, and only the quarantine knows that it was refused.
        for refusal in ["decode", "expression"] {
            let says = |v: &[u8]| v.windows(refusal.len()).any(|w| w == refusal.as_bytes());
            stores.check(&format!("{refusal} refusal gone"), made, 1, "the quarantine of the commit", |data| {
                rewrite(data, "quarantine", |_, v| says(v).then_some(None));
            });
        }
        // The tail's commits are looked at when it is opened; what is sealed, by `--all`.
        let (code, says) = if made == "tail" { (1, "the committed offset of `events`") } else { (3, "121 records") };
        stores.check("offset", made, code, says, |data| {
            rewrite(data, "meta", |key, value| {
                let next = i64::from_be_bytes(value.try_into().ok()?);
                key.starts_with(b"offset:0:events").then(|| Some((next + 1).to_be_bytes().to_vec()))
            });
        });
    }
    stores.check("catalogue entry gone", "sealed", 1, "the catalogue of segments", |data| {
        rewrite(data, "registry", |k, _| k.starts_with(b"segment:").then_some(None));
    });
    stores.check("block digests gone", "sealed", 1, "the digests of its blocks", |data| {
        rewrite(data, "registry", |k, _| k.starts_with(b"blocks:").then_some(None));
    });
    stores.check("format gone", "tail", 1, "the format is damaged", |data| {
        rewrite(data, "meta", |k, _| (k == b"format").then_some(None));
    });
    for (word, says) in [("redo:", "the order of sealing"), ("sealed:", "the log is sealed up to")] {
        stores.check(&format!("{word} gone"), "sealed", 1, says, |data| {
            rewrite(data, "meta", |k, _| k.starts_with(word.as_bytes()).then_some(None));
        });
    }
}

#[test]
fn a_changed_segment_is_noticed() {
    let stores = Stores::new();
    for log in ["events", "updates", "keyed"] {
        let mut found = vec![];
        files(stores.deployment.path("sealed").join("segments").join(log), &mut found);
        found.retain(|f| f.extension().is_some_and(|e| e == "parquet"));
        let file = found.first().unwrap_or_else(|| panic!("no segments of {log}")).clone();
        let within = file.strip_prefix(stores.deployment.path("sealed")).expect("below it").to_path_buf();
        let length = std::fs::metadata(&file).expect("it is there").len();
        for at in [length / 3, length - 20] {
            stores.check(&format!("{log} segment at {at}"), "sealed", 1, "is not as it was written", |data| {
                let mut bytes = std::fs::read(data.join(&within)).expect("readable");
                bytes[usize::try_from(at).expect("small")] ^= 1;
                std::fs::write(data.join(&within), bytes).expect("written");
            });
        }
        stores.check(&format!("{log} segment gone"), "sealed", 1, ".parquet", |data| {
            std::fs::remove_file(data.join(&within)).expect("removed");
        });
    }
}

/// Every file of the database in turn, its first block and its index: nothing is answered from what is left.
#[test]
fn a_damaged_database_file_is_never_read_past() {
    let stores = Stores::new();
    let sealed = stores.deployment.path("sealed");
    let db = open(&sealed);
    for family in FAMILIES {
        db.flush_cf(&db.cf_handle(family).expect("all families exist")).expect("it is written");
    }
    drop(db);
    stores.verify("sealed").expect(0, &["differing=0"]);
    let tables = std::fs::read_dir(sealed.join("db")).expect("a directory").map(|e| e.expect("readable").file_name());
    let tables: Vec<_> = tables.filter(|name| name.to_string_lossy().ends_with(".sst")).collect();
    assert!(tables.len() >= 4, "{tables:?}");
    for table in tables {
        for from_end in [false, true] {
            stores.check(&format!("{} {from_end}", table.to_string_lossy()), "sealed", 1, "orruption", |copy| {
                let path = copy.join("db").join(&table);
                let mut bytes = std::fs::read(&path).expect("a file");
                let at = if from_end { bytes.len() - 60 } else { 20 };
                bytes[at] ^= 0x55;
                std::fs::write(path, bytes).expect("written");
            });
        }
    }
}
