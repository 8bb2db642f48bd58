//! Templates with `%u` (user) and `%c` (client identifier). A client chooses these values, so a
//! value can never match more than itself.
//!
//! A value with a wildcard, a level separator or a control character is not inserted
//! (CVE-2017-7650). Such a template matches nothing where it allows, and everything that it could
//! mean where it denies. Values are never expanded again.

/// Values for a template.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Value of `%u`.
    pub user: Option<&'a str>,
    /// Value of `%c`.
    pub client_id: &'a str,
}

/// Returns `true` when the text has a placeholder.
pub fn has_any(text: &str) -> bool {
    text.contains("%u") || text.contains("%c")
}

/// Returns `true` when the value can stand in a topic filter and match only itself.
pub fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains(['+', '#', '/', '$']) && !value.chars().any(char::is_control)
}

impl<'a> Values<'a> {
    fn of(&self, name: u8) -> Option<&'a str> {
        match name {
            b'u' => self.user,
            _ => Some(self.client_id),
        }
        .filter(|value| is_plain(value))
    }

    /// Returns the text with its values; else the text before the first value that cannot be
    /// inserted.
    pub fn expand<'t>(&self, text: &'t str) -> Result<String, &'t str> {
        let mut out = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some(at) = rest.find("%u").into_iter().chain(rest.find("%c")).min() {
            let name = rest.as_bytes().get(at + 1).copied().unwrap_or_default();
            let done = text.len() - rest.len() + at;
            let value = self.of(name).ok_or(text.get(..done).unwrap_or_default())?;
            out.push_str(rest.get(..at).unwrap_or_default());
            out.push_str(value);
            rest = rest.get(at + 2..).unwrap_or_default();
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Returns a filter for everything that a template could mean. Where a value cannot be
    /// inserted: the levels before it, and everything below.
    pub fn expand_widely(&self, filter: &str) -> String {
        self.expand(filter).unwrap_or_else(|before| match before.rfind('/') {
            Some(slash) => format!("{}/#", before.get(..slash).unwrap_or_default()),
            None => "#".to_owned(),
        })
    }
}

/// Returns `true` when a template allows the client identifier: `%u` is the user, a `*` at the end
/// anything.
pub fn allows_client_id(template: &str, user: Option<&str>, client_id: &str) -> bool {
    let (fixed, open) = template.strip_suffix('*').map_or((template, false), |fixed| (fixed, true));
    let expanded = match (fixed.contains("%u"), user) {
        (false, _) => fixed.to_owned(),
        (true, Some(user)) => fixed.replace("%u", user),
        (true, None) => return false,
    };
    if open { client_id.starts_with(&expanded) } else { client_id == expanded }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn values(client_id: &str) -> Values<'_> {
        Values { user: Some("ann"), client_id }
    }

    #[test]
    fn values_are_inserted_once_and_match_only_themselves() {
        assert_eq!(values("c1").expand("a/%u/%c-x/%c").as_deref(), Ok("a/ann/c1-x/c1"));
        assert_eq!(values("%u").expand("a/%c").as_deref(), Ok("a/%u"), "not expanded again");
        for bad in ["+", "#", "a/#", "../x", "", "a\0b", "$SYS"] {
            assert_eq!(values(bad).expand("a/%u/%c/b"), Err("a/%u/"), "{bad}");
        }
        assert_eq!(values(".*").expand("%c").as_deref(), Ok(".*"), "no pattern of its own");
        assert_eq!(Values { user: None, client_id: "c" }.expand("x/%u"), Err("x/"));
    }

    #[test]
    fn a_denying_template_widens_where_a_value_cannot_be_inserted() {
        assert_eq!(values("a/b").expand_widely("secret/x-%c/y"), "secret/#");
        assert_eq!(values("#").expand_widely("%c/y"), "#");
        assert_eq!(values("c").expand_widely("secret/%c"), "secret/c");
    }

    #[test]
    fn a_template_binds_the_client_identifier_to_the_user() {
        assert!(allows_client_id("%u", Some("ann"), "ann") && !allows_client_id("%u", Some("ann"), "bob"));
        assert!(
            allows_client_id("%u-*", Some("ann"), "ann-7")
                && !allows_client_id("%u-*", Some("ann"), "anna-7")
        );
        assert!(!allows_client_id("%u*", None, "x") && allows_client_id("dev-*", None, "dev-1"));
    }
}
