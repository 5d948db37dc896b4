//! Ids: the numbers under which a store knows sources, versions of views and group keys.
//!
//! A plan has *indices*, the places in its own lists, which are other ones as soon as a definition comes or goes. What is
//! stored carries *ids*: the store's registry gives them, each once and none again, so what a dropped view left can never
//! be taken for another's.
//!
//! Invariants: an id is made by the registry, or read from what was stored. Neighbours: `state::registry` gives them, when
//! a store is opened with a plan; `fold::entry` and every key and record carry them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stream or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(u32);

/// One version of a view: another version is another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewId(u32);

/// A stream and what its events are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(u32);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// As the registry has it.
            pub fn new(number: u32) -> $name {
                $name(number)
            }

            /// The bytes of a key, which sort like the id.
            pub fn to_be_bytes(self) -> [u8; 4] {
                self.0.to_be_bytes()
            }

            /// From the bytes of a key.
            pub fn from_be_bytes(bytes: [u8; 4]) -> $name {
                $name(u32::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(SourceId);
id!(ViewId);
id!(KeyId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_ids() {
        let ids = [0, 1, 255, 256, 70_000, u32::MAX].map(ViewId::new);
        assert!(ids.is_sorted_by_key(|id| id.to_be_bytes()));
        assert_eq!(ids.map(|id| ViewId::from_be_bytes(id.to_be_bytes())), ids);
    }
}
