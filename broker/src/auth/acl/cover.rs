//! Relations between topic filters: covering and overlapping.

/// Returns `true` for topics that begin with `$`, which wildcards do not match.
fn is_own(filter: &str) -> bool {
    filter.starts_with('$')
}

fn begins_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

/// Returns `true` when `outer` matches everything that `inner` matches.
pub fn covers(outer: &str, inner: &str) -> bool {
    if is_own(inner) && begins_with_wildcard(outer) {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Returns `true` when a topic exists that both match.
pub fn overlaps(one: &str, other: &str) -> bool {
    if (is_own(one) && begins_with_wildcard(other)) || (is_own(other) && begins_with_wildcard(one)) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_filters_that_match_a_subset() {
        let yes = [
            ("#", "#"),
            ("#", "a/+/b"),
            ("a/#", "a"),
            ("a/#", "a/#"),
            ("a/#", "a/+/#"),
            ("a/+", "a/b"),
            ("+/+", "a/+"),
            ("$SYS/#", "$SYS/a"),
            ("a/#/", "a/#/"),
        ];
        let no = [
            ("a/#", "#"),
            ("a/#", "+/b"),
            ("a/+", "a/#"),
            ("a/+", "a"),
            ("a/b", "a/+"),
            ("#", "$SYS/#"),
            ("+/a", "$SYS/a"),
            ("a", "a/"),
            ("a/", "a"),
            ("+", "#"),
            ("a/+", "a/b/c"),
        ];
        for (outer, inner) in yes {
            assert!(covers(outer, inner), "{outer} covers {inner}");
        }
        for (outer, inner) in no {
            assert!(!covers(outer, inner), "{outer} does not cover {inner}");
        }
    }

    #[test]
    fn filters_overlap_where_one_topic_matches_both() {
        for (one, other) in
            [("#", "a"), ("a/+", "+/b"), ("a/#", "a"), ("+/x/#", "y/+/z"), ("$SYS/#", "$SYS/+")]
        {
            assert!(overlaps(one, other) && overlaps(other, one), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("a/+", "a"), ("#", "$SYS/#"), ("a/b/c", "a/+")] {
            assert!(!overlaps(one, other) && !overlaps(other, one), "{one} {other}");
        }
    }
}
