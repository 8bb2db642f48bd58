//! Files of access rules in both formats. Every text that parses is a set of rules that decides,
//! and a rule that denies always wins.
#![no_main]

use lapwing::internals::auth::acl::{Acl, Decision};
use lapwing::internals::auth::{Action, Identity};
use lapwing_protocol::topic;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in ["acl", "acl.toml"] {
        let acl = match Acl::parse(text, name) {
            Ok(acl) => acl,
            Err(errors) => {
                // Every error names the file and a line.
                assert!(
                    !errors.is_empty() && errors.iter().all(|error| error.starts_with(name)),
                    "{errors:?}"
                );
                continue;
            }
        };
        // Words of the text itself are likely users, client identifiers and topics.
        let words: Vec<&str> =
            text.split(['\n', ' ', '\'', '"']).filter(|word| !word.is_empty()).take(64).collect();
        for user in words.iter().take(8).map(|user| Some(*user)).chain([None]) {
            for client_id in ["c", "#", "a/b", words.first().copied().unwrap_or("x")] {
                let mut identity = user.map_or_else(Identity::default, Identity::of);
                identity.groups = acl.groups_of(user, &[]);
                let (strict, wide) =
                    (acl.rights(&identity, client_id, false), acl.rights(&identity, client_id, true));
                for word in &words {
                    for action in [Action::Publish, Action::Subscribe, Action::Receive] {
                        let valid = match action {
                            Action::Subscribe => {
                                topic::check_filter(word).is_ok() && topic::shared(word).is_none()
                            }
                            _ => topic::check_name(word).is_ok(),
                        };
                        if !valid {
                            continue;
                        }
                        let decision = strict.decide(action, word);
                        assert_eq!(strict.allows(action, word), matches!(decision, Decision::Allowed(_)));
                        assert!(!acl.is_empty() || decision == Decision::NoRule);
                        // Everything that is allowed strictly is allowed widely, too.
                        assert!(!strict.allows(action, word) || wide.allows(action, word));
                        // A subscription to one topic brings that topic.
                        if action == Action::Subscribe
                            && topic::check_name(word).is_ok()
                            && strict.allows(action, word)
                        {
                            assert!(strict.allows(Action::Receive, word), "{word}");
                        }
                        assert!(!strict.explain(action, word).is_empty());
                    }
                }
            }
        }
    }
});
