//! A growing sequence that is cheap to clone and cheap to change: fixed-size chunks behind `Arc`.
//!
//! A clone shares all chunks; a change copies at most one chunk that somebody else still holds.

use std::sync::Arc;

/// Items of one chunk. Chosen: small enough that copying a shared chunk costs some microseconds,
/// large enough that cloning a sequence of ten million items copies few pointers.
pub const CHUNK_ITEMS: usize = 4096;

/// A persistent vector.
#[derive(Debug, Clone)]
pub struct Chunked<T> {
    chunks: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
            len: 0,
        }
    }
}

impl<T: Clone> Chunked<T> {
    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks
            .get(index / CHUNK_ITEMS)?
            .get(index % CHUNK_ITEMS)
    }

    /// The item at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(index / CHUNK_ITEMS)?;
        Arc::make_mut(chunk).get_mut(index % CHUNK_ITEMS)
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        let chunks = Arc::make_mut(&mut self.chunks);
        match chunks.last_mut() {
            Some(last) if last.len() < CHUNK_ITEMS => Arc::make_mut(last).push(item),
            Some(_) | None => {
                let mut chunk = Vec::with_capacity(CHUNK_ITEMS);
                chunk.push(item);
                chunks.push(Arc::new(chunk));
            }
        }
        self.len += 1;
    }

    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The chunks in order; all but the last hold [`CHUNK_ITEMS`] items.
    pub fn chunks(&self) -> &[Arc<Vec<T>>] {
        &self.chunks
    }
}

impl<T: Clone> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut all = Self::default();
        for item in items {
            all.push(item);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut numbers: Chunked<u64> = (0..10_000).collect();
        let before = numbers.clone();
        *numbers.get_mut(5_000).unwrap() = 7;
        numbers.push(10_000);
        assert_eq!((before.get(5_000), before.len()), (Some(&5_000), 10_000));
        assert_eq!(
            (numbers.get(5_000), numbers.get(10_000)),
            (Some(&7), Some(&10_000))
        );
        assert_eq!(numbers.get(10_001), None);
    }
}
