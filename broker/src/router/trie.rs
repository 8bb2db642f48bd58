//! The subscriptions as a tree of topic levels.
//!
//! Nodes live in one arena and name each other by index. Every walk is a loop with its own stack: a
//! topic of 32,768 levels costs no recursion. A walk visits each node at most once, however the
//! wildcards are placed.

use std::sync::Arc;

use smol_str::SmolStr;

use super::compact::SmallMap;
use crate::message::{SessionNumber, SubscriptionIds};
use crate::router::target::merge;
use crate::router::{Group, Subscriber, Target};

type Index = u32;
const ROOT: Index = 0;

/// One topic level. Wildcard children are kept apart from the rest: each walk asks for them.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The children `#` and `+`; the root's index, which is nobody's child, stands for none.
    multi: Index,
    single: Index,
    /// Children that are names.
    names: SmallMap<SmolStr, Index>,
    subscribers: SmallMap<SessionNumber, Subscriber>,
    /// Shared groups by name; few filters have any.
    shares: Option<Box<SmallMap<Box<str>, Arc<Group>>>>,
}

impl Node {
    pub(super) fn subscribe(&mut self, subscriber: Subscriber) -> bool {
        self.subscribers.insert(subscriber.outbox.session(), subscriber).is_none()
    }

    pub(super) fn unsubscribe(&mut self, session: SessionNumber) -> bool {
        self.subscribers.remove(&session).is_some()
    }

    pub(super) fn share(&self, name: &str) -> Option<&Arc<Group>> {
        self.shares.as_ref()?.get(name)
    }

    pub(super) fn set_share(&mut self, name: &str, group: Option<Arc<Group>>) {
        let shares = self.shares.get_or_insert_default();
        match group {
            Some(group) => drop(shares.insert(name.into(), group)),
            None => drop(shares.remove(name)),
        }
        if shares.is_empty() {
            self.shares = None;
        }
    }

    /// Returns the subscriptions here behind a session, in the order of sessions.
    pub(super) fn subscribers_behind(
        &self,
        session: Option<SessionNumber>,
    ) -> impl Iterator<Item = &Subscriber> {
        self.subscribers.after(session.as_ref()).map(|(_, subscriber)| subscriber)
    }

    /// Returns the shared groups here, in the order of their names.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &Arc<Group>)> {
        let groups = self.shares.iter().flat_map(|shares| shares.after::<str>(None));
        groups.map(|(name, group)| (&**name, group))
    }

    pub(super) fn has_subscriptions(&self) -> bool {
        !self.subscribers.is_empty() || self.shares.is_some()
    }

    fn is_empty(&self) -> bool {
        let childless = self.multi == ROOT && self.single == ROOT && self.names.is_empty();
        childless && !self.has_subscriptions()
    }

    /// Returns the child for a level of a filter.
    fn child(&self, level: &str) -> Option<Index> {
        match level {
            "#" => below(self.multi),
            "+" => below(self.single),
            name => self.names.get(name).copied(),
        }
    }

    /// Sets the child for a level; `ROOT` removes it.
    fn set_child(&mut self, level: &str, child: Index) {
        match level {
            "#" => self.multi = child,
            "+" => self.single = child,
            name if child == ROOT => drop(self.names.remove(name)),
            name => drop(self.names.insert(name.into(), child)),
        }
    }

    /// Returns the levels behind one with their children: `#`, `+`, then names in their order.
    fn levels(&self, after: Option<&str>) -> impl Iterator<Item = (&str, Index)> {
        let rank = match after {
            None => 0,
            Some("#") => 1,
            Some("+") => 2,
            Some(_) => 3,
        };
        let wildcards = [("#", self.multi), ("+", self.single)].into_iter().skip(rank);
        let names = self.names.after(after.filter(|_| rank == 3));
        wildcards.filter(|(_, child)| *child != ROOT).chain(names.map(|(name, child)| (&**name, *child)))
    }
}

fn below(child: Index) -> Option<Index> {
    (child != ROOT).then_some(child)
}

/// The topic tree of all subscriptions.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    free: Vec<Index>,
}

impl Default for Trie {
    fn default() -> Self {
        Trie { nodes: vec![Node::default()], free: Vec::new() }
    }
}

impl Trie {
    fn at(&self, index: Index) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    fn child(&self, index: Index, level: &str) -> Option<Index> {
        self.at(index)?.child(level)
    }

    /// Returns the node of a filter, if there is one.
    pub(super) fn node(&self, filter: &str) -> Option<&Node> {
        let mut index = ROOT;
        for level in filter.split('/') {
            index = self.child(index, level)?;
        }
        self.at(index)
    }

    /// Returns the node of a filter, made where it is missing.
    pub(super) fn node_mut(&mut self, filter: &str) -> &mut Node {
        let mut index = ROOT;
        for level in filter.split('/') {
            index = match self.child(index, level) {
                Some(child) => child,
                None => {
                    let child = self.free.pop().unwrap_or(self.nodes.len() as Index);
                    if child as usize == self.nodes.len() {
                        self.nodes.push(Node::default());
                    }
                    self.nodes[index as usize].set_child(level, child);
                    child
                }
            };
        }
        &mut self.nodes[index as usize]
    }

    /// Changes the node of a filter, then removes the branch as far as it is empty.
    pub(super) fn edit(&mut self, filter: &str, change: impl FnOnce(&mut Node) -> bool) -> bool {
        let mut path = vec![ROOT];
        for level in filter.split('/') {
            let Some(child) = path.last().and_then(|index| self.child(*index, level)) else { return false };
            path.push(child);
        }
        let Some(node) = path.last().and_then(|index| self.nodes.get_mut(*index as usize)) else {
            return false;
        };
        let changed = change(node);
        for (level, step) in filter.rsplit('/').zip(path.windows(2).rev()) {
            let &[parent, child] = step else { break };
            if !self.nodes[child as usize].is_empty() {
                break;
            }
            self.nodes[child as usize] = Node::default();
            self.free.push(child);
            self.nodes[parent as usize].set_child(level, ROOT);
        }
        changed
    }

    /// Visits the nodes behind that of a filter, in the order of their levels, until `visit` ends
    /// it. `visit` gets the filter of each node.
    pub(super) fn walk(
        &self,
        after: Option<&str>,
        mut visit: impl FnMut(&dyn Fn() -> String, &Node) -> bool,
    ) {
        // For each level of the path: its node's children behind that level.
        let mut stack = Vec::new();
        let mut path: Vec<&str> = Vec::new();
        let mut here = Some(ROOT);
        for level in after.into_iter().flat_map(|after| after.split('/')) {
            let Some(node) = here.and_then(|index| self.at(index)) else { break };
            stack.push(node.levels(Some(level)));
            path.push(level);
            here = node.child(level);
        }
        if let Some(node) = here.and_then(|index| self.at(index)) {
            stack.push(node.levels(None));
            path.push("");
        }
        while let Some(next) = stack.last_mut().map(Iterator::next) {
            let Some((level, child)) = next else {
                stack.pop();
                path.pop();
                continue;
            };
            let Some(node) = self.at(child) else { continue };
            path.pop();
            path.push(level);
            if visit(&|| path.join("/"), node) {
                return;
            }
            stack.push(node.levels(None));
            path.push("");
        }
    }

    /// Returns the filters that match a topic, with their nodes.
    pub(super) fn matching(&self, topic: &str) -> Vec<(String, &Node)> {
        let mut found = Vec::new();
        let longer = |path: &str, index: Index, level: &str| match index {
            ROOT => level.to_owned(),
            _ => format!("{path}/{level}"),
        };
        let mut stack: Vec<(Index, String, Option<&str>)> = vec![(ROOT, String::new(), Some(topic))];
        while let Some((index, path, rest)) = stack.pop() {
            let Some(node) = self.at(index) else { continue };
            let wildcards = index != ROOT || !topic.starts_with('$');
            if wildcards && let Some(multi) = self.child(index, "#").and_then(|child| self.at(child)) {
                found.push((longer(&path, index, "#"), multi));
            }
            let Some(rest) = rest else {
                found.push((path, node));
                continue;
            };
            let (level, rest) =
                rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
            for wanted in ["+", level].into_iter().filter(|wanted| wildcards || *wanted != "+") {
                if let Some(child) = self.child(index, wanted) {
                    stack.push((child, longer(&path, index, wanted), rest));
                }
            }
        }
        found.retain(|(_, node)| node.has_subscriptions());
        found
    }

    /// Returns the targets of a topic, each session once. Those that the store keeps come first: if
    /// it takes nothing, no other has the message yet.
    pub(super) fn targets(&self, topic: &str) -> Vec<Target> {
        let mut matched = Vec::new();
        let mut targets = Vec::new();
        let mut collect = |node: &Node| {
            matched.extend(node.subscribers.values().cloned());
            if let Some(shares) = &node.shares {
                targets.extend(shares.values().cloned().map(Target::Share));
            }
        };
        // A node and the rest of the topic below it; `None` is the end.
        let mut stack: Vec<(Index, Option<&str>)> = vec![(ROOT, Some(topic))];
        while let Some((index, rest)) = stack.pop() {
            let Some(node) = self.at(index) else { continue };
            // `[MQTT-4.7.2-1]`: no wildcard in the first level for topics that start with `$`.
            let wildcards = index != ROOT || !topic.starts_with('$');
            if wildcards && let Some(multi) = below(node.multi).and_then(|child| self.at(child)) {
                collect(multi);
            }
            let Some(rest) = rest else {
                collect(node);
                continue;
            };
            let (level, rest) =
                rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
            if wildcards && node.single != ROOT {
                stack.push((node.single, rest));
            }
            if let Some(child) = node.names.get(level) {
                stack.push((*child, rest));
            }
        }
        match matched.pop() {
            Some(subscriber) if matched.is_empty() => {
                let ids = subscriber.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
                targets.push(Target::Session(subscriber, ids));
            }
            last => {
                matched.extend(last);
                // Groups are asked behind the sessions that the store keeps.
                let groups = std::mem::take(&mut targets);
                targets.extend(merge(matched));
                let plain = |target: &Target| matches!(target, Target::Session(subscriber, _) if !subscriber.outbox.is_stored());
                let at = targets.iter().position(plain).unwrap_or(targets.len());
                targets.splice(at..at, groups);
            }
        }
        targets
    }

    /// Returns the number of nodes in use, the root aside.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use lapwing_protocol::{QoS, topic};

    use super::*;
    use crate::outbox::{Outbox, QueueLimits};

    fn outbox(session: SessionNumber) -> Arc<Outbox> {
        let policy = crate::config::QueuePolicy::DropNewest;
        Arc::new(Outbox::new(
            session,
            QueueLimits {
                messages_max: 9,
                bytes_max: 999,
                policy,
                keeps_qos0: false,
                stored_bytes_max: 0,
                ..Default::default()
            },
        ))
    }

    fn sessions(trie: &Trie, topic: &str) -> Vec<SessionNumber> {
        let number = |target: &Target| match target {
            Target::Session(subscriber, _) => subscriber.outbox.session(),
            Target::Share(_) => 0,
        };
        trie.targets(topic).iter().map(number).collect()
    }

    #[test]
    fn the_tree_agrees_with_the_plain_matcher() {
        let filters = [
            "#", "+", "+/+", "a", "a/#", "a/+", "a/b", "/", "+/b/#", "$SYS/#", "$SYS/+", "a//b", "+/+/+",
            "a/b/c",
        ];
        let topics = ["a", "a/b", "a/b/c", "/", "/b", "$SYS/x", "$SYS", "a//b", "b", "$a/b", "a/"];
        let mut trie = Trie::default();
        for (n, filter) in filters.iter().enumerate() {
            assert!(
                trie.node_mut(filter).subscribe(super::super::subscriber(&outbox(n as u64), QoS::AtMostOnce))
            );
        }
        for topic in topics {
            let expected: Vec<u64> = filters
                .iter()
                .zip(0u64..)
                .filter_map(|(filter, n)| topic::matches(filter, topic).then_some(n))
                .collect();
            assert_eq!(sessions(&trie, topic), expected, "{topic}");
        }
        for (n, filter) in filters.iter().enumerate() {
            assert!(trie.edit(filter, |node| node.unsubscribe(n as u64)));
        }
        assert_eq!(trie.len(), 0, "nothing is left behind");
    }

    #[test]
    fn a_walk_continues_behind_a_present_or_removed_level() {
        let long = "a level that is longer than those that are kept in their place";
        let filters = ["#", "!", "+", "+/#", "+/x", "a", "a/#", "a/+", "a/!", long];
        let mut trie = Trie::default();
        for filter in filters {
            trie.node_mut(filter).subscribe(super::super::subscriber(&outbox(1), QoS::AtMostOnce));
        }
        let behind = |trie: &Trie, after: Option<&str>| {
            let mut seen = Vec::new();
            trie.walk(after, |filter, node| {
                seen.extend(node.has_subscriptions().then(filter));
                false
            });
            seen
        };
        let whole = behind(&trie, None);
        assert_eq!(whole, ["#", "+", "+/#", "+/x", "!", "a", "a/#", "a/+", "a/!", long]);
        for (n, filter) in whole.iter().enumerate() {
            assert_eq!(behind(&trie, Some(filter)), whole[n + 1..], "{filter}");
        }
        assert!(trie.edit("a/+", |node| node.unsubscribe(1)));
        assert_eq!(behind(&trie, Some("a/+")), ["a/!", long]);
        assert_eq!(behind(&trie, Some("Z")), ["a", "a/#", "a/!", long], "nothing was ever there");
    }

    // 5.0: [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
    #[test]
    fn overlapping_subscriptions_merge_to_the_highest_qos_and_all_identifiers() {
        let outbox = outbox(7);
        let mut trie = Trie::default();
        for (filter, qos, id) in
            [("a/+", QoS::AtMostOnce, 5), ("a/#", QoS::ExactlyOnce, 6), ("#", QoS::AtLeastOnce, 7)]
        {
            let id = NonZeroU32::new(id);
            trie.node_mut(filter).subscribe(Subscriber { id, ..super::super::subscriber(&outbox, qos) });
        }
        let targets = trie.targets("a/b");
        let [Target::Session(subscriber, ids)] = targets.as_slice() else { panic!("{targets:?}") };
        let mut ids = ids.as_slice().to_vec();
        ids.sort_unstable();
        assert_eq!((subscriber.qos, ids), (QoS::ExactlyOnce, vec![5, 6, 7]));
    }

    #[test]
    fn deep_topics_and_filters_cost_no_recursion() {
        let deep = "/".repeat(65_535);
        let mut trie = Trie::default();
        trie.node_mut(&deep).subscribe(super::super::subscriber(&outbox(1), QoS::AtMostOnce));
        assert_eq!(sessions(&trie, &deep), [1]);
        assert!(trie.edit(&deep, |node| node.unsubscribe(1)));
        assert_eq!(trie.len(), 0);
    }
}
