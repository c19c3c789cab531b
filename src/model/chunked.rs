//! A growing sequence that is cheap to clone and cheap to change: a tree of shared chunks.
//!
//! A clone shares all chunks. A change copies at most one leaf, one branch and the root, where
//! somebody else still holds them.

use std::sync::{Arc, OnceLock};

/// Items of a leaf, and leaves of a branch. Chosen: copying a shared leaf of the largest items
/// costs a few microseconds, and ten million items have a root of some 150 branches.
pub const LEAF_ITEMS: usize = 256;

/// What is true of the items of one leaf together, so that a search can pass over them at once.
pub trait Digest<T> {
    /// Looks at all items of a leaf.
    fn of(items: &[T]) -> Self;
}

#[derive(Debug)]
struct Leaf<T, D> {
    items: Vec<T>,
    /// Made on first use, and forgotten when an item changes.
    digest: OnceLock<D>,
}

impl<T, D> Leaf<T, D> {
    fn new(items: Vec<T>) -> Self {
        Self {
            items,
            digest: OnceLock::new(),
        }
    }

    fn items_mut(&mut self) -> &mut Vec<T> {
        self.digest.take();
        &mut self.items
    }
}

/// A copy is made to be changed: it has no digest.
impl<T: Clone, D> Clone for Leaf<T, D> {
    fn clone(&self) -> Self {
        Self::new(self.items.clone())
    }
}

type Branch<T, D> = Arc<Vec<Arc<Leaf<T, D>>>>;

/// A persistent vector, with a digest `D` of each leaf where one is wanted.
#[derive(Debug)]
pub struct Chunked<T, D = ()> {
    root: Arc<Vec<Branch<T, D>>>,
    len: usize,
}

impl<T, D> Clone for Chunked<T, D> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            len: self.len,
        }
    }
}

impl<T, D> Default for Chunked<T, D> {
    fn default() -> Self {
        Self {
            root: Arc::new(Vec::new()),
            len: 0,
        }
    }
}

impl<T: Clone, D> Chunked<T, D> {
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
        self.leaf(index / LEAF_ITEMS)?.items.get(index % LEAF_ITEMS)
    }

    fn leaf(&self, leaf: usize) -> Option<&Arc<Leaf<T, D>>> {
        self.root.get(leaf / LEAF_ITEMS)?.get(leaf % LEAF_ITEMS)
    }

    /// The digest of the leaf that holds the item at `index`.
    pub fn digest(&self, index: usize) -> Option<&D>
    where
        D: Digest<T>,
    {
        let leaf = self.leaf(index / LEAF_ITEMS)?;
        Some(leaf.digest.get_or_init(|| D::of(&leaf.items)))
    }

    /// The item at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let leaf = index / LEAF_ITEMS;
        let branch = Arc::make_mut(&mut self.root).get_mut(leaf / LEAF_ITEMS)?;
        let leaf = Arc::make_mut(branch).get_mut(leaf % LEAF_ITEMS)?;
        let items = Arc::make_mut(leaf).items_mut();
        items.get_mut(index % LEAF_ITEMS)
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        let root = Arc::make_mut(&mut self.root);
        if self.len.is_multiple_of(LEAF_ITEMS * LEAF_ITEMS) {
            root.push(Arc::new(Vec::new()));
        }
        if let Some(branch) = root.last_mut().map(Arc::make_mut) {
            if self.len.is_multiple_of(LEAF_ITEMS) {
                branch.push(Arc::new(Leaf::new(Vec::with_capacity(LEAF_ITEMS))));
            }
            if let Some(leaf) = branch.last_mut().map(Arc::make_mut) {
                leaf.items_mut().push(item);
                self.len += 1;
            }
        }
    }

    /// A sequence of whole leaves; `None` where one before the last is not full.
    pub fn from_leaves(leaves: impl IntoIterator<Item = Vec<T>>) -> Option<Self> {
        let mut root: Vec<Branch<T, D>> = Vec::new();
        let mut branch = Vec::with_capacity(LEAF_ITEMS);
        let mut len: usize = 0;
        for leaf in leaves.into_iter().filter(|leaf| !leaf.is_empty()) {
            if !len.is_multiple_of(LEAF_ITEMS) || leaf.len() > LEAF_ITEMS {
                return None;
            }
            if branch.len() == LEAF_ITEMS {
                root.push(Arc::new(std::mem::take(&mut branch)));
            }
            len += leaf.len();
            branch.push(Arc::new(Leaf::new(leaf)));
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
            .map(|leaf| leaf.items.as_slice())
    }
}

impl<T: Clone + PartialEq, D> PartialEq for Chunked<T, D> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.leaves().eq(other.leaves())
    }
}

impl<T: Clone, D> FromIterator<T> for Chunked<T, D> {
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
            let mut built: Chunked<u64> = Chunked::from_leaves(leaves).unwrap();
            assert_eq!(built, pushed);
            built.push(7);
            assert_eq!(built.get(usize::try_from(len).unwrap()), Some(&7));
        }
        assert_eq!(Chunked::<u64>::from_leaves([vec![1], vec![2]]), None);
    }

    #[derive(Debug, PartialEq)]
    struct Sum(u64);

    impl Digest<u64> for Sum {
        fn of(items: &[u64]) -> Self {
            Self(items.iter().sum())
        }
    }

    #[test]
    fn a_digest_follows_every_change_of_its_leaf() {
        let mut numbers: Chunked<u64, Sum> = (0..300).collect();
        let first = (0..256).sum::<u64>();
        assert_eq!(numbers.digest(255), Some(&Sum(first)));
        assert_eq!(numbers.digest(256), Some(&Sum((256..300).sum())));
        assert_eq!(numbers.digest(512), None);
        let before = numbers.clone();
        *numbers.get_mut(7).unwrap() += 1;
        numbers.push(1);
        assert_eq!(numbers.digest(0), Some(&Sum(first + 1)));
        assert_eq!(numbers.digest(299), Some(&Sum((256..300).sum::<u64>() + 1)));
        assert_eq!(before.digest(0), Some(&Sum(first)));
        *numbers.get_mut(0).unwrap() += 1;
        assert_eq!(numbers.digest(0), Some(&Sum(first + 2)));
    }
}
