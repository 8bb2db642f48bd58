//! The table of all routes of the API: the service and `openapi.json` are both made from it.
//!
//! A resource is a file of its own with a table `ROUTES`, made with [`route`]; a new one is a line
//! in [`TABLES`].

use hyper::Method;
use serde_json::{Map, Value, json};

use super::request::{Parameter, ParameterKind, decode};
use super::response::ApiError;
use super::{
    bans, busiest, clients, explain, listeners, log, openapi, reload, retained, sessions, subscriptions,
    trace,
};
use crate::admin::route::Route;

/// Prefix of all paths.
pub(super) const ROOT: &str = "/api/v1";

const TABLES: &[&[Route]] = &[
    clients::ROUTES,
    busiest::ROUTES,
    sessions::ROUTES,
    bans::ROUTES,
    subscriptions::ROUTES,
    retained::ROUTES,
    listeners::ROUTES,
    explain::ROUTES,
    trace::ROUTES,
    reload::ROUTES,
    log::ROUTES,
    openapi::ROUTES,
];

fn all() -> impl Iterator<Item = &'static Route> {
    TABLES.iter().copied().flatten()
}

/// Returns the route of a request, and the parts of its path in place of those in braces.
///
/// # Errors
/// There is none.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), ApiError> {
    let below = path.strip_prefix(ROOT).unwrap_or("");
    let mut others = Vec::new();
    for route in all() {
        let Some(names) = names(route.path, below) else { continue };
        if route.method == *method || (route.method == Method::GET && *method == Method::HEAD) {
            let names: Result<Vec<String>, ApiError> = names.into_iter().map(decode).collect();
            return Ok((route, names?));
        }
        others.push(route.method.as_str());
    }
    match others.is_empty() {
        true => Err(ApiError::missing(
            format!("there is nothing at {path}"),
            format!("GET {ROOT}/openapi.json lists all that there is"),
        )),
        false => Err(ApiError::method(&others.join(", "))),
    }
}

/// Returns the variable parts of a path, if the rest is the same.
fn names<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut wanted, mut parts) = (pattern.split('/'), path.split('/'));
    let mut names = Vec::new();
    loop {
        match (wanted.next(), parts.next()) {
            (None, None) => return Some(names),
            (Some(wanted), Some(part)) if wanted.starts_with('{') && !part.is_empty() => names.push(part),
            (Some(wanted), Some(part)) if wanted == part => {}
            _ => return None,
        }
    }
}

/// Returns the OpenAPI 3.1 document of the API.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in all() {
        let methods = paths.entry(format!("{ROOT}{}", route.path)).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_lowercase()] = route.document();
    }
    let description = "What `lapwing ctl` does, as HTTP and JSON: over the Unix socket (admin.socket) without a token, over TCP \
                       (admin.address) with one. A space in a URL is %20 and a + is %2B: a bare + is refused.";
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Lapwing", "description": description, "version": "1" },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Failure": ApiError::schema() },
        },
    })
}

impl Parameter {
    pub(super) fn document(&self) -> Value {
        let schema = match self.kind {
            ParameterKind::Text => json!({ "type": "string" }),
            ParameterKind::Number(least, most) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            ParameterKind::Choice(words) => json!({ "type": "string", "enum": words }),
        };
        json!({ "name": self.name, "in": "query", "required": self.required, "description": self.doc, "schema": schema })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_the_repository_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let text = format!("{:#}\n", document());
        if std::env::var_os("LAPWING_UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == text, "run this test with LAPWING_UPDATE=1 to write docs/openapi.json");
    }

    #[test]
    fn each_path_finds_its_own_route_only() {
        for route in all() {
            let (found, names) = find(&route.method, &format!("{ROOT}{}", route.path)).unwrap();
            assert!(std::ptr::eq(found, route), "{} {}", route.method, route.path);
            assert_eq!(names.len(), route.path.matches('{').count());
        }
        assert_eq!(find(&Method::GET, "/api/v1/clients/a%2Fb").unwrap().1, ["a/b"]);
        assert!(find(&Method::GET, "/api/v1/clients/").is_err());
        assert!(find(&Method::GET, "/api/v1/clients/a/b/c/d").is_err());
    }
}
