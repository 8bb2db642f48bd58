//! A map that is small when it holds little. Most nodes of a topic tree have one child and one
//! subscriber; few have 100,000.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::slice;

const FEW_MAX: usize = 16;

/// One entry without an allocation, a sorted list up to 16, a tree beyond.
#[derive(Debug)]
pub(super) enum SmallMap<K, V> {
    One((K, V)),
    Few(Box<[(K, V)]>),
    #[expect(clippy::box_collection, reason = "every node would be larger for the few that have many")]
    Many(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        SmallMap::Few(Box::default())
    }
}

/// A borrowed form of the map.
enum View<'a, K, V> {
    List(&'a [(K, V)]),
    Tree(&'a BTreeMap<K, V>),
}

impl<K: Ord, V> SmallMap<K, V> {
    #[inline]
    fn view(&self) -> View<'_, K, V> {
        match self {
            SmallMap::One(entry) => View::List(slice::from_ref(entry)),
            SmallMap::Few(list) => View::List(list),
            SmallMap::Many(map) => View::Tree(map),
        }
    }

    /// Takes all entries out of a small map.
    fn take(&mut self) -> Vec<(K, V)> {
        match std::mem::take(self) {
            SmallMap::One(entry) => vec![entry],
            SmallMap::Few(list) => list.into_vec(),
            SmallMap::Many(map) => map.into_iter().collect(),
        }
    }

    /// Stores sorted entries.
    fn put(&mut self, mut list: Vec<(K, V)>) {
        *self = match list.len() {
            1 => list.pop().map(SmallMap::One).unwrap_or_default(),
            0..=FEW_MAX => SmallMap::Few(list.into()),
            _ => SmallMap::Many(Box::new(list.into_iter().collect())),
        };
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self.view() {
            View::List(list) => {
                let at = list.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
                list.get(at).map(|(_, value)| value)
            }
            View::Tree(map) => map.get(key),
        }
    }

    /// Returns the entries behind a key, in order; `None` means from the first.
    pub(super) fn after<Q: Ord + ?Sized>(&self, key: Option<&Q>) -> Box<dyn Iterator<Item = (&K, &V)> + '_>
    where
        K: Borrow<Q>,
    {
        match self.view() {
            View::List(list) => {
                let from = key.map_or(0, |key| list.partition_point(|(k, _)| k.borrow() <= key));
                Box::new(list.iter().skip(from).map(|(key, value)| (key, value)))
            }
            View::Tree(map) => {
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                Box::new(map.range::<Q, _>((from, Bound::Unbounded)))
            }
        }
    }

    /// Inserts a value and returns the previous one.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let SmallMap::Many(map) = self {
            return map.insert(key, value);
        }
        let mut list = self.take();
        let before = match list.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => list.get_mut(at).map(|entry| std::mem::replace(&mut entry.1, value)),
            Err(at) => {
                list.reserve_exact(1);
                list.insert(at, (key, value));
                None
            }
        };
        self.put(list);
        before
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let SmallMap::Many(map) = self {
            let value = map.remove(key);
            // The bound is well below the limit, so that a map at the border does not change its
            // form each time.
            if map.len() <= FEW_MAX / 2 {
                let list = self.take();
                self.put(list);
            }
            return value;
        }
        let mut list = self.take();
        let found = list.binary_search_by(|(k, _)| k.borrow().cmp(key));
        let removed = found.ok().map(|at| list.remove(at).1);
        self.put(list);
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        match self.view() {
            View::List(list) => list.len(),
            View::Tree(map) => map.len(),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let (list, tree) = match self.view() {
            View::List(list) => (list, None),
            View::Tree(map) => (&[][..], Some(map.values())),
        };
        list.iter().map(|(_, value)| value).chain(tree.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_map_holds_what_a_tree_holds_at_any_size() {
        let (mut compact, mut tree) = (SmallMap::default(), BTreeMap::new());
        // Up to 25 entries and down to none again, each in an order of its own; some are set twice.
        let grow = (0..50_u32).map(|n| (n * 7 % 25, Some(n)));
        let shrink = (0..50_u32).map(|n| (n * 11 % 25, None));
        for (key, value) in grow.chain(shrink) {
            let (ours, theirs) = match value {
                Some(value) => (compact.insert(key, value), tree.insert(key, value)),
                None => (compact.remove(&key), tree.remove(&key)),
            };
            assert_eq!(ours, theirs);
            assert_eq!((compact.len(), compact.is_empty()), (tree.len(), tree.is_empty()));
            assert!((0..26).all(|key| compact.get(&key) == tree.get(&key)));
            assert!(compact.values().eq(tree.values()));
            assert!(compact.after::<u32>(None).eq(&tree));
            assert!(compact.after(Some(&key)).eq(tree.range(key + 1..)));
        }
    }
}
