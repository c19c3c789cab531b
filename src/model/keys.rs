//! The keys of a source table: slot to key, and key to slot.
//!
//! A key gets its slot at its first insertion and keeps it for ever, so both directions only
//! grow. Keys are kept whole, not as hashes: a collision must never take one source for another.
//! The index from key to slot is a list of immutable segments whose sizes fall by at least half,
//! so a snapshot is cheap to clone and an insertion costs amortised constant time.
//!
//! The keys that a checkpoint brought have a segment of their own, the base. It is built on first
//! use, once for all snapshots that share it: opening a large store does not pay for it, and
//! [`Keys::warm`] can build it beside the first statements.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
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

#[derive(Debug, Clone, PartialEq)]
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

/// The keys that were there when the table was opened: the slots `0..len`.
#[derive(Debug, Default)]
struct Base {
    len: u32,
    segment: OnceLock<Segment>,
}

/// All keys of a table, with their index.
#[derive(Debug, Clone)]
pub struct Keys {
    key_type: KeyType,
    chunks: Arc<Vec<Arc<KeyChunk>>>,
    len: u32,
    base: Arc<Base>,
    /// The slots from `base.len` on.
    index: OnceLock<Arc<Vec<Arc<Segment>>>>,
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.key_type == other.key_type && self.chunks == other.chunks
    }
}

/// Whole chunks of keys, as a checkpoint holds them. Parts of a table's keys that were decoded
/// side by side are joined with [`Keys::from_parts`].
#[derive(Debug)]
pub struct KeyPart {
    chunks: Vec<Arc<KeyChunk>>,
    len: usize,
}

impl KeyPart {
    /// TEXT keys in slot order.
    pub fn of_texts(keys: &StringArray) -> Self {
        let chunks = (0..keys.len()).step_by(CHUNK_ITEMS).map(|first| {
            let keys = keys.slice(first, CHUNK_ITEMS.min(keys.len() - first));
            let mut ends = Vec::with_capacity(keys.len());
            let mut bytes = String::with_capacity(text_bytes(&keys));
            for key in &keys {
                bytes.push_str(key.unwrap_or_default());
                ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            }
            Arc::new(KeyChunk::Text { ends, bytes })
        });
        Self {
            chunks: chunks.collect(),
            len: keys.len(),
        }
    }

    /// BIGINT keys in slot order.
    pub fn of_ints(keys: &Int64Array) -> Self {
        let chunks = keys.values().chunks(CHUNK_ITEMS);
        Self {
            chunks: chunks
                .map(|chunk| Arc::new(KeyChunk::Int(chunk.to_vec())))
                .collect(),
            len: keys.len(),
        }
    }
}

fn text_bytes(keys: &StringArray) -> usize {
    let offsets = keys.value_offsets();
    let bytes = offsets
        .last()
        .zip(offsets.first())
        .map(|(last, first)| last - first);
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(0)
}

impl Keys {
    /// No keys yet.
    pub fn new(key_type: KeyType) -> Self {
        Self {
            key_type,
            chunks: Arc::new(Vec::new()),
            len: 0,
            base: Arc::default(),
            index: OnceLock::new(),
        }
    }

    /// The keys of consecutive parts, all of which but the last must hold whole chunks; `None`
    /// where they do not, or are of another type.
    pub fn from_parts(key_type: KeyType, parts: impl IntoIterator<Item = KeyPart>) -> Option<Self> {
        let mut chunks = Vec::new();
        let mut len = 0;
        for part in parts {
            let of_type = part.chunks.iter().all(|chunk| match (&**chunk, key_type) {
                (KeyChunk::Text { .. }, KeyType::Text) | (KeyChunk::Int(_), KeyType::Int) => true,
                (KeyChunk::Text { .. }, KeyType::Int) | (KeyChunk::Int(_), KeyType::Text) => false,
            });
            if len % CHUNK_ITEMS != 0 || !of_type {
                return None;
            }
            len += part.len;
            chunks.extend(part.chunks);
        }
        let len = u32::try_from(len).ok().filter(|len| *len < u32::MAX)?;
        Some(Self {
            key_type,
            chunks: Arc::new(chunks),
            len,
            base: Arc::new(Base {
                len,
                segment: OnceLock::new(),
            }),
            index: OnceLock::from(Arc::new(Vec::new())),
        })
    }

    /// The keys in `slots` in order, as an array of the table's type.
    pub fn array(&self, slots: impl Iterator<Item = Slot>) -> ArrayRef {
        let keys = slots.map(|slot| self.get(slot));
        match self.key_type {
            KeyType::Text => {
                let texts = keys.map(|key| match key {
                    Some(Key::Text(text)) => text,
                    Some(Key::Int(_)) | None => "",
                });
                Arc::new(StringArray::from_iter_values(texts))
            }
            KeyType::Int => {
                let numbers = keys.map(|key| match key {
                    Some(Key::Int(number)) => number,
                    Some(Key::Text(_)) | None => 0,
                });
                Arc::new(Int64Array::from_iter_values(numbers))
            }
        }
    }

    /// Builds what is missing of the index, so that no statement has to wait for it.
    pub fn warm(&self) {
        self.base_segment();
        self.index();
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
        let newer = self.index().iter().map(Arc::as_ref);
        // The base last: most look-ups of a store that grows are of what came last.
        newer
            .chain(std::iter::once_with(|| self.base_segment()))
            .find_map(|segment| {
                segment
                    .slots
                    .find(hash, |&slot| self.get(Slot(slot)) == Some(key))
                    .map(|&slot| Slot(slot))
            })
    }

    /// [`Self::find`] for keys that come in the order of their slots, as those of a table that is
    /// read from its beginning do: most are found without the index.
    pub fn find_after(&self, before: Option<Slot>, key: Key<'_>) -> Option<Slot> {
        let next = Slot(before.map_or(0, |before| before.0.saturating_add(1)));
        if self.get(next) == Some(key) {
            return Some(next);
        }
        self.find(key)
    }

    fn base_segment(&self) -> &Segment {
        self.base
            .segment
            .get_or_init(|| self.segment(0, self.base.len))
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
            .get_or_init(|| Arc::new(vec![Arc::new(self.segment(self.base.len, self.len))]))
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
            let key = format!("n-{number}");
            let found = Some(Slot(number));
            assert_eq!(keys.find(Key::Text(&key)), found);
            for before in [None, number.checked_sub(1), Some(number), Some(u32::MAX)] {
                assert_eq!(keys.find_after(before.map(Slot), Key::Text(&key)), found);
            }
        }
        assert_eq!(keys.find_after(Some(Slot(3)), Key::Text("n-x")), None);
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

    #[test]
    fn keys_from_parts_grow_like_any_others() {
        let number = |keys: &Keys, slot: u32| keys.get(Slot(slot)).unwrap().to_string();
        let mut pushed = Keys::new(KeyType::Text);
        for number in 0..5_000 {
            pushed.push(Key::Text(&format!("n-{number}")));
        }
        let parts = [0..2_048, 2_048..5_000].map(|slots| {
            let keys = pushed.array(slots.map(Slot));
            KeyPart::of_texts(keys.as_any().downcast_ref().unwrap())
        });
        let mut keys = Keys::from_parts(KeyType::Text, parts).unwrap();
        assert_eq!(keys, pushed);
        let shared = keys.clone();
        assert_eq!(keys.push(Key::Text("new")), Some(Slot(5_000)));
        assert_eq!(keys.find(Key::Text("new")), Some(Slot(5_000)));
        for slot in [0, 2_047, 2_048, 4_999] {
            assert_eq!(keys.find(Key::Text(&number(&keys, slot))), Some(Slot(slot)));
        }
        assert!(
            shared.base.segment.get().is_some(),
            "the base is built once for all clones"
        );
        assert_eq!(shared.find(Key::Text("new")), None);
        let uneven = [0..10, 10..20].map(|slots| {
            let keys = pushed.array(slots.map(Slot));
            KeyPart::of_texts(keys.as_any().downcast_ref().unwrap())
        });
        assert!(Keys::from_parts(KeyType::Text, uneven).is_none());
    }
}
