//! The packed form of an identity, which is kept with a session and with a retained message: rules
//! can be asked when the client is away. It has the realm of the user, the listener, the method,
//! and the groups that came with the credentials.
//!
//! Listeners have numbers only while the broker runs, so their labels are kept.

use std::sync::{Arc, OnceLock};

use super::{Identity, scram};
use crate::config::Method;

/// Version of the packed form.
const VERSION: u8 = 1;
/// Flags behind the version.
const HAS_REALM: u8 = 1;
const HAD_GRANTS: u8 = 2;

/// Methods whose names are kept.
const METHODS: [&str; 5] = [
    Method::Certificate.name(),
    Method::Jwt.name(),
    Method::Password.name(),
    Method::Http.name(),
    scram::METHOD,
];

/// The known parts of an identity that was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KnownParts {
    /// All of it: the client is or was connected in this run, or its identity was kept.
    #[default]
    All,
    /// It was kept, and its credentials had brought rules, which are not.
    NotGrants,
    /// Only its user: an older version kept it.
    User,
}

impl Identity {
    /// Returns its packed form; `None` where it is not known.
    pub(crate) fn kept(&self) -> Option<&[u8]> {
        (self.known != KnownParts::User).then(|| &**self.packed.get_or_init(|| self.pack()))
    }

    /// Like [`kept`](Self::kept), to be kept elsewhere.
    pub(crate) fn packed(&self) -> Option<Arc<[u8]>> {
        self.kept()?;
        self.packed.get().cloned()
    }

    fn pack(&self) -> Arc<[u8]> {
        let mut out = vec![VERSION, 0];
        let mut put = |text: &str| {
            // Longer ones come from no source.
            let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes().get(..usize::from(len)).unwrap_or_default());
        };
        put(self.realm.as_deref().unwrap_or_default());
        put(&self.listener);
        put(self.method);
        self.from_credentials.iter().for_each(|group| put(group));
        let had_grants = self.grants.is_some() || self.known == KnownParts::NotGrants;
        let flags =
            if self.realm.is_some() { HAS_REALM } else { 0 } | if had_grants { HAD_GRANTS } else { 0 };
        if let Some(place) = out.get_mut(1) {
            *place = flags;
        }
        out.into()
    }

    /// Identity of a user that is away, by what was kept of it. Without that, only the user is
    /// known.
    pub(crate) fn unpacked(user: Option<Arc<str>>, packed: Option<&[u8]>) -> Identity {
        let identity = packed.and_then(read);
        Identity { user, ..identity.unwrap_or(Identity { known: KnownParts::User, ..Identity::default() }) }
    }
}

fn read(packed: &[u8]) -> Option<Identity> {
    let (head, mut rest) = packed.split_first_chunk::<2>()?;
    let flags = head[1];
    if head[0] != VERSION {
        return None;
    }
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (len, behind) = rest.split_first_chunk::<2>()?;
        let (text, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        texts.push(std::str::from_utf8(text).ok()?);
        rest = behind;
    }
    let [realm, listener, method, groups @ ..] = texts.as_slice() else { return None };
    let groups: Arc<[Box<str>]> = groups.iter().map(|group| Box::from(*group)).collect();
    Some(Identity {
        realm: (flags & HAS_REALM != 0).then(|| Arc::from(*realm)),
        listener: Arc::from(*listener),
        method: METHODS.into_iter().find(|known| known == method).unwrap_or_default(),
        groups: groups.clone(),
        from_credentials: groups,
        known: if flags & HAD_GRANTS == 0 { KnownParts::All } else { KnownParts::NotGrants },
        packed: OnceLock::from(Arc::from(packed)),
        ..Identity::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt;

    #[test]
    fn what_was_kept_comes_back() {
        let groups: Arc<[Box<str>]> = Arc::from(["a".into(), "b c".into(), "".into()]);
        let identity = Identity {
            realm: Some("password:users".into()),
            listener: "mqtt://127.0.0.1:1883".into(),
            method: jwt::METHOD,
            from_credentials: groups.clone(),
            groups,
            ..Identity::of("ann")
        };
        let packed = identity.packed().unwrap();
        let read = Identity::unpacked(Some("ann".into()), Some(&packed));
        assert_eq!(read.packed(), Some(packed.clone()));
        assert_eq!(read, identity);
        let anonymous = Identity::default();
        assert_eq!(Identity::unpacked(None, anonymous.packed().as_deref()), anonymous);
        // Rules that came with credentials are not kept, and that is known.
        let granted = Identity { grants: Some(Arc::from([])), packed: OnceLock::new(), ..identity };
        let read = Identity::unpacked(Some("ann".into()), granted.packed().as_deref());
        assert_eq!((read.known, read.grants), (KnownParts::NotGrants, None));
    }

    #[test]
    fn without_what_was_kept_only_the_user_is_known() {
        let packed = Identity::of("ann").packed().unwrap();
        let newer = [&[9], packed.get(1..).unwrap()].concat();
        let cut = packed.get(..packed.len() - 1).unwrap();
        for kept in [None, Some(&[][..]), Some(&newer[..]), Some(cut)] {
            let read = Identity::unpacked(Some("ann".into()), kept);
            assert_eq!((read.user.as_deref(), read.known), (Some("ann"), KnownParts::User));
            assert_eq!(read.packed(), None, "it must not pass for a known one later");
        }
    }
}
