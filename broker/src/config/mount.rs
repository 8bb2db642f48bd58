//! Mount points: the topics of a listener's clients lie below a prefix. Names are translated here;
//! everything else, access rules included, uses whole names.

use std::borrow::Cow;

use lapwing_protocol::topic;

use crate::config::MountPoint;

/// Converts a client's topic name to the broker's.
pub(crate) fn name<'t>(mount: Option<&MountPoint>, name: &'t str) -> Cow<'t, str> {
    mount.map_or(Cow::Borrowed(name), |mount| format!("{}{name}", mount.0).into())
}

/// Converts a client's topic filter to the broker's; the prefix goes behind the name of a shared
/// group.
pub(crate) fn filter<'t>(mount: Option<&MountPoint>, filter: &'t str) -> Cow<'t, str> {
    let Some(mount) = mount else { return Cow::Borrowed(filter) };
    match topic::shared(filter) {
        Some((_, inner)) => {
            let group = filter.strip_suffix(inner).unwrap_or_default();
            format!("{group}{}{inner}", mount.0).into()
        }
        None => format!("{}{filter}", mount.0).into(),
    }
}

/// Converts a broker's topic name to the client's; `None` if it is not below the mount point.
pub(crate) fn seen<'t>(mount: Option<&MountPoint>, name: &'t [u8]) -> Option<&'t [u8]> {
    match mount {
        None => Some(name),
        Some(mount) => name.strip_prefix(mount.0.as_bytes()).filter(|rest| !rest.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_gain_the_mount_point_and_lose_it_again() {
        let mount = Some(&MountPoint("house/".to_owned()));
        assert_eq!(name(mount, "a/b"), "house/a/b");
        assert_eq!(filter(mount, "#"), "house/#");
        assert_eq!(filter(mount, "$share/g/a/+"), "$share/g/house/a/+");
        assert_eq!(seen(mount, b"house/a"), Some(&b"a"[..]));
        assert_eq!((seen(mount, b"other/a"), seen(mount, b"house/")), (None, None));
        assert_eq!(
            (name(None, "a"), filter(None, "#"), seen(None, b"x")),
            ("a".into(), "#".into(), Some(&b"x"[..]))
        );
    }
}
