//! The table of subscriptions, with a generation that the caches of publishers compare.

use crate::router::share::Shares;
use crate::router::trie::Trie;

#[derive(Debug, Default)]
pub(crate) struct SubscriptionTable {
    pub(super) trie: Trie,
    pub(super) shares: Shares,
    pub(super) count: usize,
    pub(super) shared_count: usize,
}
