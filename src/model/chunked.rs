//! A growing sequence that is cheap to clone and cheap to change: a tree of shared chunks.
//!
//! A clone shares all chunks. A change copies at most one leaf, one branch and the root, where
//! somebody else still holds them.

use std::sync::Arc;

/// Items of a leaf, and leaves of a branch. Chosen: copying a shared leaf of the largest items
/// costs a few microseconds, and ten million items have a root of some 150 branches.
pub const LEAF_ITEMS: usize = 256;

type Leaf<T> = Arc<Vec<T>>;
type Branch<T> = Arc<Vec<Leaf<T>>>;

/// A persistent vector.
#[derive(Debug, Clone)]
pub struct Chunked<T> {
    root: Arc<Vec<Branch<T>>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self {
            root: Arc::new(Vec::new()),
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
        let leaf = index / LEAF_ITEMS;
        self.root
            .get(leaf / LEAF_ITEMS)?
            .get(leaf % LEAF_ITEMS)?
            .get(index % LEAF_ITEMS)
    }

    /// The item at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let leaf = index / LEAF_ITEMS;
        let branch = Arc::make_mut(&mut self.root).get_mut(leaf / LEAF_ITEMS)?;
        let leaf = Arc::make_mut(branch).get_mut(leaf % LEAF_ITEMS)?;
        Arc::make_mut(leaf).get_mut(index % LEAF_ITEMS)
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        let root = Arc::make_mut(&mut self.root);
        if self.len.is_multiple_of(LEAF_ITEMS * LEAF_ITEMS) {
            root.push(Arc::new(Vec::new()));
        }
        if let Some(branch) = root.last_mut().map(Arc::make_mut) {
            if self.len.is_multiple_of(LEAF_ITEMS) {
                branch.push(Arc::new(Vec::with_capacity(LEAF_ITEMS)));
            }
            if let Some(leaf) = branch.last_mut().map(Arc::make_mut) {
                leaf.push(item);
                self.len += 1;
            }
        }
    }

    /// A sequence of whole leaves; `None` where one before the last is not full.
    pub fn from_leaves(leaves: impl IntoIterator<Item = Vec<T>>) -> Option<Self> {
        let mut root: Vec<Branch<T>> = Vec::new();
        let mut branch: Vec<Leaf<T>> = Vec::with_capacity(LEAF_ITEMS);
        let mut len: usize = 0;
        for leaf in leaves.into_iter().filter(|leaf| !leaf.is_empty()) {
            if !len.is_multiple_of(LEAF_ITEMS) || leaf.len() > LEAF_ITEMS {
                return None;
            }
            if branch.len() == LEAF_ITEMS {
                root.push(Arc::new(std::mem::take(&mut branch)));
            }
            len += leaf.len();
            branch.push(Arc::new(leaf));
        }
        if !branch.is_empty() {
            root.push(Arc::new(branch));
        }
        Some(Self {
            root: Arc::new(root),
            len,
        })
    }

    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.leaves().flat_map(|leaf| leaf.iter())
    }

    /// The leaves in order; all but the last hold [`LEAF_ITEMS`] items.
    pub fn leaves(&self) -> impl Iterator<Item = &[T]> {
        self.root
            .iter()
            .flat_map(|branch| branch.iter())
            .map(|leaf| leaf.as_slice())
    }
}

impl<T: Clone + PartialEq> PartialEq for Chunked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.leaves().eq(other.leaves())
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
        let mut numbers: Chunked<u64> = (0..200_000).collect();
        let before = numbers.clone();
        *numbers.get_mut(150_000).unwrap() = 7;
        numbers.push(200_000);
        assert_eq!(
            (before.get(150_000), before.len()),
            (Some(&150_000), 200_000)
        );
        assert_eq!(
            (numbers.get(150_000), numbers.get(200_000)),
            (Some(&7), Some(&200_000))
        );
        assert_eq!(numbers.get(200_001), None);
        assert!(before.iter().copied().eq(0..200_000));
    }

    #[test]
    fn leaves_make_the_same_sequence_as_pushes() {
        for len in [0, 1, 255, 256, 257, 65_536, 65_537, 200_000] {
            let pushed: Chunked<u64> = (0..len).collect();
            let leaves = pushed.leaves().map(<[u64]>::to_vec);
            let mut built = Chunked::from_leaves(leaves).unwrap();
            assert_eq!(built, pushed);
            built.push(7);
            assert_eq!(built.get(usize::try_from(len).unwrap()), Some(&7));
        }
        assert_eq!(Chunked::from_leaves([vec![1], vec![2]]), None);
    }
}
