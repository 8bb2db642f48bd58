//! A map that is small when it holds little: most nodes of a topic tree have one child and one subscriber, few have 100,000.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

const FEW_MAX: usize = 16;

/// A sorted vector up to 16 entries, a tree beyond.
#[derive(Debug)]
pub(super) enum Compact<K, V> {
    Few(Vec<(K, V)>),
    Many(BTreeMap<K, V>),
}

impl<K, V> Default for Compact<K, V> {
    fn default() -> Self {
        Compact::Few(Vec::new())
    }
}

impl<K: Ord, V> Compact<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            Compact::Few(list) => {
                let at = list.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
                list.get(at).map(|(_, value)| value)
            }
            Compact::Many(map) => map.get(key),
        }
    }

    /// All from behind a key on, in order; `None`: from the first.
    pub(super) fn behind<Q: Ord + ?Sized>(&self, key: Option<&Q>) -> Box<dyn Iterator<Item = (&K, &V)> + '_>
    where
        K: Borrow<Q>,
    {
        match self {
            Compact::Few(list) => {
                let from = key.map_or(0, |key| list.partition_point(|(k, _)| k.borrow() <= key));
                Box::new(list.iter().skip(from).map(|(key, value)| (key, value)))
            }
            Compact::Many(map) => {
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                Box::new(map.range::<Q, _>((from, Bound::Unbounded)))
            }
        }
    }

    /// The value that was there before.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Compact::Few(list) => match list.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(at) => list.get_mut(at).map(|entry| std::mem::replace(&mut entry.1, value)),
                Err(at) if list.len() < FEW_MAX => {
                    list.reserve_exact(if list.is_empty() { 1 } else { list.len() });
                    list.insert(at, (key, value));
                    None
                }
                Err(_) => {
                    let mut map: BTreeMap<K, V> = std::mem::take(list).into_iter().collect();
                    map.insert(key, value);
                    *self = Compact::Many(map);
                    None
                }
            },
            Compact::Many(map) => map.insert(key, value),
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Compact::Few(list) => {
                let at = list.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
                let (_, value) = list.remove(at);
                if list.is_empty() {
                    *list = Vec::new();
                }
                Some(value)
            }
            Compact::Many(map) => {
                let value = map.remove(key);
                // Well below the limit, so that a map at the border does not change its kind each time.
                if map.len() <= FEW_MAX / 2 {
                    *self = Compact::Few(std::mem::take(map).into_iter().collect());
                }
                value
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Compact::Few(list) => list.len(),
            Compact::Many(map) => map.len(),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let (few, many) = match self {
            Compact::Few(list) => (Some(list.iter().map(|(_, value)| value)), None),
            Compact::Many(map) => (None, Some(map.values())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}
