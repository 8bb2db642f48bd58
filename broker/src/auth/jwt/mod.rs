//! JSON Web Tokens (RFC 7519) as passwords. The signer of a token says who the client is, its
//! rights, and their end.

mod keys;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use keys::{TokenKey, jwks, pem, secret};
use lapwing_protocol::topic;
use serde_json::Value;

use super::acl::{Rule, RuleLocation};
use super::{Identity, template};
use crate::config;

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest name in a token, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// Largest number of groups and rules in one token.
const ITEMS_MAX: usize = 256;
/// Name of the method in identities and logs.
pub const METHOD: &str = "jwt";

/// Keys and required claims of tokens.
#[derive(Debug)]
pub struct Tokens {
    /// Keys of all files.
    pub keys: Vec<TokenKey>,
}

/// Names of a grant in a token, with their effects: (denies, publish, subscribe). The short ones
/// are EMQX's.
const GRANTS: [(&str, (bool, bool, bool)); 9] = [
    ("publish", (false, true, false)),
    ("pub", (false, true, false)),
    ("subscribe", (false, false, true)),
    ("sub", (false, false, true)),
    ("all", (false, true, true)),
    ("deny_publish", (true, true, false)),
    ("deny_subscribe", (true, false, true)),
    ("deny_all", (true, true, true)),
    ("deny", (true, true, true)),
];

/// Returns `true` when the password has the form of a token: a JSON object and two dots.
pub fn looks_like(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

fn json(part: &str) -> Option<Value> {
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    value.is_object().then_some(value)
}

pub(super) fn name(value: &Value, claim: &str) -> Result<String, String> {
    let name = value.as_str().filter(|name| {
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
    });
    name.map(str::to_owned).ok_or_else(|| format!("its claim '{claim}' is no name"))
}

/// Reads a text, or a list of texts.
pub(super) fn texts(value: &Value, claim: &str) -> Result<Vec<Box<str>>, String> {
    let text = |value: &Value| value.as_str().map(Box::from);
    let all = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) if list.len() <= ITEMS_MAX => list.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    };
    all.ok_or_else(|| format!("its claim '{claim}' is no list of at most {ITEMS_MAX} texts"))
}

impl Tokens {
    /// Returns the identity that a token names; `now_s` in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns the reason that the token is refused, without its signature.
    pub fn identity(&self, token: &[u8], config: &config::Auth, now_s: u64) -> Result<Identity, String> {
        let claims = self.claims(token)?;
        self.check(&claims, config, now_s)?;
        let user = name(&claims[&config.jwt_user_claim], &config.jwt_user_claim)?;
        let client_id = match &config.jwt_client_id_claim {
            Some(claim) if !claims[claim].is_null() => Some(Arc::from(name(&claims[claim], claim)?)),
            _ => None,
        };
        let groups = texts(&claims[&config.jwt_groups_claim], &config.jwt_groups_claim)?;
        let groups: Arc<[Box<str>]> = groups.into();
        let grants = grants(&claims[&config.jwt_acl_claim], &config.jwt_acl_claim, &user)?;
        let leeway_s = u64::from(config.jwt_leeway_s);
        let issuer = claims["iss"].as_str().filter(|issuer| issuer.len() <= NAME_BYTES_MAX);
        Ok(Identity {
            method: METHOD,
            realm: Some(format!("jwt:{}", issuer.unwrap_or_default()).into()),
            client_id,
            from_credentials: groups.clone(),
            groups,
            grants,
            expires_at_s: claims["exp"].as_f64().map(|at| (at as u64).saturating_add(leeway_s)),
            ..Identity::of(&user)
        })
    }

    /// Returns the claims of a token after its signature was verified.
    fn claims(&self, token: &[u8]) -> Result<Value, String> {
        let token = std::str::from_utf8(token).ok().filter(|token| token.len() <= TOKEN_BYTES_MAX);
        let token = token.ok_or_else(|| format!("it is no text of at most {TOKEN_BYTES_MAX} bytes"))?;
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no signature")?;
        let (header, claims) = signed.split_once('.').ok_or("it has no claims")?;
        let header = json(header).ok_or("its header is no JSON object")?;
        if !header["crit"].is_null() {
            return Err("its header asks for extensions (crit)".to_owned());
        }
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let id = header["kid"].as_str();
        let fitting: Vec<&TokenKey> = self.keys.iter().filter(|key| key.fits(algorithm, id)).collect();
        if fitting.is_empty() {
            return Err(format!(
                "there is no key for it: algorithm '{}', key id {:?}",
                algorithm.chars().take(20).collect::<String>().escape_debug(),
                id.map(|id| id.chars().take(100).collect::<String>())
            ));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "its signature is not Base64")?;
        if !fitting.iter().any(|key| key.verifies(signed.as_bytes(), &signature)) {
            return Err("its signature is not by a key that is known here".to_owned());
        }
        json(claims).ok_or_else(|| "its claims are no JSON object".to_owned())
    }

    fn check(&self, claims: &Value, config: &config::Auth, now_s: u64) -> Result<(), String> {
        let leeway_s = f64::from(config.jwt_leeway_s);
        let (now_s, moment) = (now_s as f64, |claim: &str| match &claims[claim] {
            Value::Null => Ok(None),
            value => value.as_f64().map(Some).ok_or_else(|| format!("its claim '{claim}' is no number")),
        });
        match moment("exp")? {
            None if config.jwt_expiry_required => {
                return Err("it never ends: auth.jwt_expiry_required wants a claim 'exp'".to_owned());
            }
            Some(at) if at + leeway_s <= now_s => return Err("it has ended".to_owned()),
            _ => {}
        }
        if moment("nbf")?.is_some_and(|at| at - leeway_s > now_s) {
            return Err("it has not begun".to_owned());
        }
        if let Some(issuer) = &config.jwt_issuer
            && claims["iss"].as_str() != Some(issuer)
        {
            return Err(format!("it is not by '{issuer}' (auth.jwt_issuer)"));
        }
        if let Some(audience) = &config.jwt_audience
            && !texts(&claims["aud"], "aud")?.iter().any(|for_whom| **for_whom == **audience)
        {
            return Err(format!("it is not for '{audience}' (auth.jwt_audience)"));
        }
        Ok(())
    }
}

/// Returns the rules in a token: `{"publish": ["a/#"], "subscribe": ["b/+"], "deny":
/// ["a/secret"]}`; `None`: it has no rules.
pub(super) fn grants(claim: &Value, name: &str, user: &str) -> Result<Option<Arc<[Rule]>>, String> {
    if claim.is_null() {
        return Ok(None);
    }
    let table = claim.as_object().ok_or_else(|| format!("its claim '{name}' is no object"))?;
    let (source, subject) =
        (RuleLocation { file: "the token".into(), line: 0 }, Arc::<str>::from(format!("user '{user}'")));
    let none: Arc<[Box<str>]> = Arc::from([]);
    let mut rules = Vec::new();
    for (key, value) in table {
        let Some((_, (denies, publish, subscribe))) = GRANTS.iter().find(|(grant, _)| grant == key) else {
            return Err(format!("its claim '{name}' has the unknown key '{}'", key.escape_debug()));
        };
        for filter in texts(value, name)? {
            let filter = topic::shared(&filter).map_or(filter.clone(), |(_, inner)| inner.into());
            let is_template = template::has_any(&filter);
            let sample = template::Values { user: Some("x"), client_id: "x" };
            let checked = sample.expand(&filter).unwrap_or_default();
            if topic::check_filter(&checked).is_err() || rules.len() >= ITEMS_MAX {
                return Err(format!(
                    "its claim '{name}' has an invalid topic filter, or more than {ITEMS_MAX}"
                ));
            }
            rules.push(Rule {
                denies: *denies,
                publish: *publish,
                subscribe: *subscribe,
                filter,
                is_template,
                listeners: none.clone(),
                clients: none.clone(),
                source: source.clone(),
                subject: subject.clone(),
            });
        }
    }
    Ok(Some(rules.into()))
}
