//! Every route of the API, in one table: what is served and what `openapi.json` says both come from it.
//!
//! A resource is a file of its own with a table `ROUTES`, made with [`route`]; a new one is a line in [`TABLES`].

use std::future::Future;
use std::pin::Pin;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Failure, JSON, LINES};
use super::call::{Call, Kind, Parameter, decode};
use super::{
    bans, busiest, clients, document, explain, listeners, log, reload, retained, sessions, subscriptions,
    trace,
};

/// What all paths begin with.
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
    document::ROUTES,
];

pub(super) type Running = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// See the module.
pub(super) struct Route {
    pub method: Method,
    /// Below [`ROOT`]; a part in braces is anything.
    pub path: &'static str,
    pub summary: &'static str,
    pub query: &'static [Parameter],
    /// The schema of what is sent, if there is something to send.
    pub body: Option<fn() -> Value>,
    /// The schema of the answer, and whether that is one value or a line for each.
    pub answer: (fn() -> Value, &'static str),
    pub run: fn(Call) -> Running,
}

/// Declares a route: `route!(GET "/path/{name}", "What it does", [PARAMETERS], function => Answer)`. The function takes the
/// [`Call`] and, after a `<- Body`, what was sent; it returns a `Result<Answer, Failure>`. After `=> lines of` it returns the
/// receiver of a channel, and what is sent there goes to the client as it comes: a JSON value with a newline each.
macro_rules! route {
    (@ $method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $body:expr, $answer:expr, $run:expr) => {
        $crate::admin::routes::Route {
            method: hyper::Method::$method,
            path: $path,
            summary: $summary,
            query: &[$($parameter),*],
            body: $body,
            answer: $answer,
            run: $run,
        }
    };
    ($method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $run:ident <- $Body:ty => $Answer:ty) => {
        $crate::admin::routes::route!(
            @ $method $path, $summary, [$($parameter),*],
            Some(<$Body as $crate::admin::shape::Shape>::schema),
            (<$Answer as $crate::admin::shape::Shape>::schema, $crate::admin::answer::JSON),
            |call| Box::pin(async move {
                let body: $Body = call.read()?;
                let answer: $Answer = $run(call, body).await?;
                Ok($crate::admin::answer::Answer::Value($crate::admin::shape::Shape::json(answer)))
            })
        )
    };
    ($method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $run:ident => lines of $Answer:ty) => {
        $crate::admin::routes::route!(
            @ $method $path, $summary, [$($parameter),*],
            None,
            (<$Answer as $crate::admin::shape::Shape>::schema, $crate::admin::answer::LINES),
            |call| Box::pin(async move { Ok($crate::admin::answer::Answer::Lines($run(call).await?, None)) })
        )
    };
    ($method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $run:ident => $Answer:ty) => {
        $crate::admin::routes::route!(
            @ $method $path, $summary, [$($parameter),*],
            None,
            (<$Answer as $crate::admin::shape::Shape>::schema, $crate::admin::answer::JSON),
            |call| Box::pin(async move {
                let answer: $Answer = $run(call).await?;
                Ok($crate::admin::answer::Answer::Value($crate::admin::shape::Shape::json(answer)))
            })
        )
    };
}
pub(super) use route;

fn all() -> impl Iterator<Item = &'static Route> {
    TABLES.iter().copied().flatten()
}

/// The route of a request, and what stands in its path for the parts in braces.
///
/// # Errors
/// That there is none.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Failure> {
    let below = path.strip_prefix(ROOT).unwrap_or("");
    let mut others = Vec::new();
    for route in all() {
        let Some(names) = names(route.path, below) else { continue };
        if route.method == *method || (route.method == Method::GET && *method == Method::HEAD) {
            let names: Result<Vec<String>, Failure> = names.into_iter().map(decode).collect();
            return Ok((route, names?));
        }
        others.push(route.method.as_str());
    }
    match others.is_empty() {
        true => Err(Failure::missing(
            format!("there is nothing at {path}"),
            format!("GET {ROOT}/openapi.json lists all that there is"),
        )),
        false => Err(Failure::method(&others.join(", "))),
    }
}

/// The parts of a path that stand for those in braces, if the rest is the same.
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

/// The document of the API (OpenAPI 3.1).
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
            "schemas": { "Failure": Failure::schema() },
        },
    })
}

impl Route {
    fn document(&self) -> Value {
        let in_path = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = in_path.map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        });
        let parameters: Vec<Value> = in_path.chain(self.query.iter().map(Parameter::document)).collect();
        let (schema, media_type) = self.answer;
        let failure = json!({
            "description": "Why not, and what to do about it.",
            "content": { JSON: { "schema": { "$ref": "#/components/schemas/Failure" } } },
        });
        let good = match media_type {
            LINES => "A value a line, for as long as the client listens.",
            _ => "Done.",
        };
        let mut document = json!({
            "summary": self.summary,
            "operationId": self.name(),
            "parameters": parameters,
            "responses": {
                "200": { "description": good, "content": { media_type: { "schema": schema() } } },
                "default": failure,
            },
        });
        if let Some(body) = self.body {
            document["requestBody"] = json!({ "required": true, "content": { JSON: { "schema": body() } } });
        }
        document
    }

    /// Like `get_clients_client`.
    fn name(&self) -> String {
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let path: String = self.path.replace(['{', '}'], "").chars().map(letters).collect();
        format!("{}{path}", self.method.as_str().to_lowercase())
    }
}

impl Parameter {
    fn document(&self) -> Value {
        let schema = match self.kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Kind::Choice(words) => json!({ "type": "string", "enum": words }),
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
    fn every_route_is_found_by_its_own_path_and_no_other() {
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
