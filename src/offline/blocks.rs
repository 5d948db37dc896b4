//! The digests of a file's blocks: taken as it is written, compared with every byte that is read.
//!
//! Parquet has no checksum that its reader compares by default, and the digest of a whole file is dear for who wants one
//! group of it. So each block of 64 KiB has a digest, and the catalogue has the digest of those.
//!
//! Invariants: what a [`CheckedFile`] gives is what was written. Neighbours: `seal` writes, `segment` reads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// Bytes of a block.
const BLOCK: u64 = 64 << 10;

/// The digests of a file's blocks, and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    length: u64,
    digests: Arc<[u64]>,
}

impl Blocks {
    /// As they are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.digests.iter().flat_map(|d| d.to_le_bytes()).collect()
    }

    /// From what was stored of a file of this length; `None` if it is not of such a file.
    pub fn of(length: u64, stored: &[u8]) -> Option<Blocks> {
        let (digests, rest) = stored.as_chunks::<8>();
        let digests: Arc<[u64]> = digests.iter().map(|d| u64::from_le_bytes(*d)).collect();
        (rest.is_empty() && digests.len() as u64 == length.div_ceil(BLOCK)).then_some(Blocks { length, digests })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// The digest of all of it, in hexadecimal.
    pub fn digest(&self) -> String {
        format!("{:032x}", xxh3_128(&self.to_bytes()))
    }
}

/// Takes the digests of what is written to a file.
pub struct Hashing {
    file: File,
    length: u64,
    /// Of the block that is being written.
    open: Xxh3,
    digests: Vec<u64>,
}

impl Hashing {
    /// For a file that is empty.
    pub fn new(file: File) -> Hashing {
        Hashing { file, length: 0, open: Xxh3::new(), digests: vec![] }
    }

    /// The file, and the digests of all that was written.
    pub fn end(mut self) -> (File, Blocks) {
        if !self.length.is_multiple_of(BLOCK) {
            self.digests.push(self.open.digest());
        }
        (self.file, Blocks { length: self.length, digests: self.digests.into() })
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let mut rest = &bytes[..written];
        while !rest.is_empty() {
            let room = usize::try_from(BLOCK - self.length % BLOCK).map_err(io::Error::other)?;
            let (part, after) = rest.split_at(room.min(rest.len()));
            self.open.update(part);
            self.length += part.len() as u64;
            if self.length.is_multiple_of(BLOCK) {
                self.digests.push(self.open.digest());
                self.open.reset();
            }
            rest = after;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is opened for each read, and of which only what was written is given.
#[derive(Clone, Debug)]
pub struct CheckedFile {
    /// Where it is.
    pub path: PathBuf,
    blocks: Blocks,
}

impl CheckedFile {
    /// A file with these blocks.
    pub fn new(path: &Path, blocks: Blocks) -> CheckedFile {
        CheckedFile { path: path.to_path_buf(), blocks }
    }

    /// Its length.
    pub fn length(&self) -> u64 {
        self.blocks.length
    }

    /// These bytes.
    ///
    /// # Errors
    /// The file system's; bytes that were not written so.
    pub fn bytes(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if end > self.blocks.length {
            return Err(io::Error::other("it is asked for bytes behind its end"));
        }
        let first = start / BLOCK * BLOCK;
        let whole = self.read(&File::open(&self.path)?, first, end.div_ceil(BLOCK) * BLOCK)?;
        let from = usize::try_from(start - first).map_err(io::Error::other)?;
        Ok(Bytes::from(whole).slice(from..from + length))
    }

    /// A reader from an offset to the end.
    ///
    /// # Errors
    /// The file system's.
    pub fn reader(&self, start: u64) -> io::Result<CheckedReader> {
        let file = File::open(&self.path)?;
        let skip = usize::try_from(start % BLOCK).map_err(io::Error::other)?;
        Ok(CheckedReader { file: self.clone(), open: file, next: start / BLOCK * BLOCK, skip, block: vec![], at: 0 })
    }

    /// Compares all of it.
    ///
    /// # Errors
    /// The file system's; bytes that were not written so.
    pub fn check(&self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let found = file.metadata()?.len();
        if found != self.blocks.length {
            return Err(io::Error::other(format!("it has {found} bytes instead of {}", self.blocks.length)));
        }
        let mut at = 0;
        while at < self.blocks.length {
            self.read(&file, at, at + BLOCK)?;
            at += BLOCK;
        }
        Ok(())
    }

    /// The blocks from one offset to another, both multiples of [`BLOCK`], or to the end.
    fn read(&self, file: &File, from: u64, until: u64) -> io::Result<Vec<u8>> {
        let until = until.min(self.blocks.length);
        let mut bytes = vec![0; usize::try_from(until.saturating_sub(from)).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, from)?;
        let first = usize::try_from(from / BLOCK).map_err(io::Error::other)?;
        let block = usize::try_from(BLOCK).map_err(io::Error::other)?;
        for (n, bytes) in bytes.chunks(block).enumerate() {
            if self.blocks.digests.get(first + n) != Some(&xxh3_64(bytes)) {
                let at = from + n as u64 * BLOCK;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the block at byte {at} is not as it was written"),
                ));
            }
        }
        Ok(bytes)
    }
}

/// Reads a file block by block.
pub struct CheckedReader {
    file: CheckedFile,
    open: File,
    /// Where the next block begins.
    next: u64,
    /// Bytes of it that are not asked for.
    skip: usize,
    block: Vec<u8>,
    at: usize,
}

impl Read for CheckedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && self.next < self.file.blocks.length {
            self.block = self.file.read(&self.open, self.next, self.next + BLOCK)?;
            self.next += BLOCK;
            self.at = std::mem::take(&mut self.skip).min(self.block.len());
        }
        let read = into.len().min(self.block.len() - self.at);
        into[..read].copy_from_slice(&self.block[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let bytes: Vec<u8> = (0..length).map(|n: usize| (n * n % 251) as u8).collect();
            let path = dir.path().join("file");
            let mut hashing = Hashing::new(File::create(&path).expect("made"));
            for part in bytes.chunks(7_001) {
                hashing.write_all(part).expect("written");
            }
            let (_, blocks) = hashing.end();
            let stored = Blocks::of(blocks.bytes(), &blocks.to_bytes()).expect("of this file");
            assert_eq!(stored, blocks);
            let file = CheckedFile::new(&path, stored);
            file.check().expect("nothing was touched");
            for start in [0, 1, 65_535, 65_536, 65_537, 131_072, 199_999] {
                let Some(want) = bytes.get(start..) else { continue };
                let mut read = vec![];
                file.reader(start as u64).expect("there").read_to_end(&mut read).expect("whole");
                assert_eq!(read, want, "{length} from {start}");
                let some = want.len().min(70_000);
                assert_eq!(file.bytes(start as u64, some).expect("whole"), want[..some]);
            }
            for at in [0, length / 2, length.saturating_sub(1)].into_iter().filter(|at| *at < length) {
                let mut other = bytes.clone();
                other[at] ^= 1;
                std::fs::write(&path, other).expect("written");
                assert!(file.check().is_err() && file.bytes(at as u64, 1).is_err(), "{length} at {at}");
                assert!(file.reader(at as u64).expect("there").read(&mut [0]).is_err(), "{length} at {at}");
            }
        }
    }
}
