//! The keys of a source table: slot to key, and key to slot.
//!
//! A key gets its slot at its first insertion and keeps it for ever, so both directions only
//! grow. Keys are kept whole, not as hashes: a collision must never take one source for another.
//! The index from key to slot is a list of immutable segments whose sizes fall by at least half,
//! so a snapshot is cheap to clone and an insertion costs amortised constant time. It is built on
//! first use: opening a large store does not pay for it.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::id::Slot;

/// Keys of a chunk. Chosen: copying the last one, where a snapshot shares it, costs microseconds.
const CHUNK_ITEMS: usize = 1024;

/// A primary key as it stands in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key<'a> {
    /// A TEXT key.
    Text(&'a str),
    /// A BIGINT key.
    Int(i64),
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
        }
    }
}

/// What kind of keys a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// TEXT.
    Text,
    /// BIGINT.
    Int,
}

impl KeyType {
    /// Reads the text form of a key; `None` where a BIGINT key is not a number in its shortest
    /// form (`007` is not the key 7: one source must not have two names).
    pub fn parse(self, text: &str) -> Option<Key<'_>> {
        match self {
            Self::Text => Some(Key::Text(text)),
            Self::Int => {
                let number: i64 = text.parse().ok()?;
                (number.to_string() == text).then_some(Key::Int(number))
            }
        }
    }
}

#[derive(Debug, Clone)]
enum KeyChunk {
    Text { ends: Vec<u32>, bytes: String },
    Int(Vec<i64>),
}

impl KeyChunk {
    fn get(&self, index: usize) -> Option<Key<'_>> {
        match self {
            Self::Text { ends, bytes } => {
                let end = *ends.get(index)? as usize;
                let start = match index.checked_sub(1) {
                    Some(before) => *ends.get(before)? as usize,
                    None => 0,
                };
                bytes.get(start..end).map(Key::Text)
            }
            Self::Int(numbers) => numbers.get(index).copied().map(Key::Int),
        }
    }
}

#[derive(Debug)]
struct Segment {
    slots: HashTable<u32>,
    /// The slots of this segment are `first..end`.
    first: u32,
    end: u32,
}

/// All keys of a table, with their index.
#[derive(Debug, Clone)]
pub struct Keys {
    key_type: KeyType,
    chunks: Arc<Vec<Arc<KeyChunk>>>,
    len: u32,
    index: OnceLock<Arc<Vec<Arc<Segment>>>>,
}

impl Keys {
    /// No keys yet.
    pub fn new(key_type: KeyType) -> Self {
        Self {
            key_type,
            chunks: Arc::new(Vec::new()),
            len: 0,
            index: OnceLock::new(),
        }
    }

    /// TEXT or BIGINT.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The number of keys, which is the next slot.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The key in a slot.
    pub fn get(&self, slot: Slot) -> Option<Key<'_>> {
        let slot = slot.0 as usize;
        self.chunks.get(slot / CHUNK_ITEMS)?.get(slot % CHUNK_ITEMS)
    }

    /// The slot of a key. Builds the index where it is not there yet.
    pub fn find(&self, key: Key<'_>) -> Option<Slot> {
        let hash = hash(key);
        self.index().iter().find_map(|segment| {
            segment
                .slots
                .find(hash, |&slot| self.get(Slot(slot)) == Some(key))
                .map(|&slot| Slot(slot))
        })
    }

    /// Appends a key, which must not be there yet and must be of the table's type; returns its
    /// slot. `None` where the type is another one or all slots are used.
    pub fn push(&mut self, key: Key<'_>) -> Option<Slot> {
        let slot = self.len;
        // The last number stays free: runs mark rows without a source with it.
        let next = slot.checked_add(1).filter(|next| *next < u32::MAX)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        if (slot as usize).is_multiple_of(CHUNK_ITEMS) {
            chunks.push(Arc::new(match self.key_type {
                KeyType::Text => KeyChunk::Text {
                    ends: Vec::new(),
                    bytes: String::new(),
                },
                KeyType::Int => KeyChunk::Int(Vec::new()),
            }));
        }
        match (chunks.last_mut().map(Arc::make_mut)?, key) {
            (KeyChunk::Text { ends, bytes }, Key::Text(text)) => {
                bytes.push_str(text);
                ends.push(u32::try_from(bytes.len()).ok()?);
            }
            (KeyChunk::Int(numbers), Key::Int(number)) => numbers.push(number),
            (KeyChunk::Text { .. }, Key::Int(_)) | (KeyChunk::Int(_), Key::Text(_)) => return None,
        }
        self.len = next;
        self.index_one(slot, hash(key));
        Some(Slot(slot))
    }

    fn index(&self) -> &Arc<Vec<Arc<Segment>>> {
        self.index
            .get_or_init(|| Arc::new(vec![Arc::new(self.segment(0, self.len))]))
    }

    fn segment(&self, first: u32, end: u32) -> Segment {
        let mut slots = HashTable::with_capacity((end - first) as usize);
        for slot in first..end {
            if let Some(key) = self.get(Slot(slot)) {
                slots.insert_unique(hash(key), slot, |&other| self.hash_of(other));
            }
        }
        Segment { slots, first, end }
    }

    fn hash_of(&self, slot: u32) -> u64 {
        self.get(Slot(slot)).map_or(0, hash)
    }

    /// Adds one slot to the index where it has been built; else the first use will.
    fn index_one(&mut self, slot: u32, hash_of_key: u64) {
        let Some(mut index) = self.index.take() else {
            return;
        };
        let segments = Arc::make_mut(&mut index);
        // A tail segment that nobody else holds grows in place; a shared one is closed, and a
        // new one begins. Segments merge when the newer one has grown to half of the older.
        match segments.last_mut().and_then(Arc::get_mut) {
            Some(tail) => {
                tail.slots
                    .insert_unique(hash_of_key, slot, |&other| self.hash_of(other));
                tail.end = slot + 1;
            }
            None => {
                let mut slots = HashTable::with_capacity(1);
                slots.insert_unique(hash_of_key, slot, |&other| self.hash_of(other));
                segments.push(Arc::new(Segment {
                    slots,
                    first: slot,
                    end: slot + 1,
                }));
            }
        }
        while let [.., older, newer] = segments.as_slice() {
            if (newer.end - newer.first) < (older.end - older.first) / 2 {
                break;
            }
            let merged = self.segment(older.first, newer.end);
            segments.truncate(segments.len() - 2);
            segments.push(Arc::new(merged));
        }
        self.index = OnceLock::from(index);
    }
}

fn hash(key: Key<'_>) -> u64 {
    /// Fixed, so that the layout of a segment does not differ between runs of a test.
    const SEED: u64 = 0x51_71_CE_6A_7E;
    let state = FixedState::with_seed(SEED);
    match key {
        Key::Text(text) => state.hash_one(text),
        Key::Int(number) => state.hash_one(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_in_its_slot_and_no_other() {
        let mut keys = Keys::new(KeyType::Text);
        let mut held = Vec::new();
        for number in 0..20_000_u32 {
            assert_eq!(keys.find(Key::Text(&format!("n-{number}"))), None);
            assert_eq!(
                keys.push(Key::Text(&format!("n-{number}"))),
                Some(Slot(number))
            );
            if number % 1_000 == 0 {
                held.push((number, keys.clone()));
            }
        }
        for number in (0..20_000).step_by(7) {
            assert_eq!(
                keys.find(Key::Text(&format!("n-{number}"))),
                Some(Slot(number))
            );
        }
        for (last, old) in held {
            assert_eq!(old.find(Key::Text(&format!("n-{last}"))), Some(Slot(last)));
            assert_eq!(old.find(Key::Text(&format!("n-{}", last + 1))), None);
        }
    }

    #[test]
    fn a_bigint_key_has_one_text_form() {
        assert_eq!(KeyType::Int.parse("7"), Some(Key::Int(7)));
        assert_eq!(KeyType::Int.parse("007"), None);
        assert_eq!(KeyType::Int.parse("x"), None);
        let mut keys = Keys::new(KeyType::Int);
        assert_eq!(keys.push(Key::Int(-3)), Some(Slot(0)));
        assert_eq!(keys.push(Key::Text("-3")), None);
        assert_eq!(keys.find(Key::Int(-3)), Some(Slot(0)));
    }
}
