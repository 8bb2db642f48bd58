//! One route of the API: its method, path, schemas and function.

use std::future::Future;
use std::pin::Pin;

use hyper::Method;
use serde_json::{Value, json};

use crate::admin::request::{ApiRequest, Parameter};
use crate::admin::response::{ApiError, ApiResponse, JSON, LINES};

pub(super) type Running = Pin<Box<dyn Future<Output = Result<ApiResponse, ApiError>> + Send>>;

/// A route of the API.
pub(super) struct Route {
    pub method: Method,
    /// Path below [`ROOT`]; a part in braces is variable.
    pub path: &'static str,
    pub summary: &'static str,
    pub query: &'static [Parameter],
    /// Schema of the body, if there is one.
    pub body: Option<fn() -> Value>,
    /// Schema of the answer, and its content type: one value, or a line for each.
    pub answer: (fn() -> Value, &'static str),
    pub run: fn(ApiRequest) -> Running,
}

/// Declares a route: `route!(GET "/path/{name}", "What it does", [PARAMETERS], function =>
/// Answer)`.
///
/// The function takes the [`ApiRequest`] and, after a `<- Body`, the parsed body; it returns a
/// `Result<Answer, ApiError>`. After `=> lines of` it returns the receiver of a channel. Its JSON
/// values, with a newline each, go to the client as they come.
macro_rules! route {
    (@ $method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $body:expr, $answer:expr, $run:expr) => {
        $crate::admin::route::Route {
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
        $crate::admin::route::route!(
            @ $method $path, $summary, [$($parameter),*],
            Some(<$Body as $crate::admin::schema::Schema>::schema),
            (<$Answer as $crate::admin::schema::Schema>::schema, $crate::admin::response::JSON),
            |call| Box::pin(async move {
                let body: $Body = call.read()?;
                let answer: $Answer = $run(call, body).await?;
                Ok($crate::admin::response::ApiResponse::Value($crate::admin::schema::Schema::json(answer)))
            })
        )
    };
    ($method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $run:ident => lines of $Answer:ty) => {
        $crate::admin::route::route!(
            @ $method $path, $summary, [$($parameter),*],
            None,
            (<$Answer as $crate::admin::schema::Schema>::schema, $crate::admin::response::LINES),
            |call| Box::pin(async move { Ok($crate::admin::response::ApiResponse::Lines($run(call).await?, None)) })
        )
    };
    ($method:ident $path:literal, $summary:literal, [$($parameter:expr),*], $run:ident => $Answer:ty) => {
        $crate::admin::route::route!(
            @ $method $path, $summary, [$($parameter),*],
            None,
            (<$Answer as $crate::admin::schema::Schema>::schema, $crate::admin::response::JSON),
            |call| Box::pin(async move {
                let answer: $Answer = $run(call).await?;
                Ok($crate::admin::response::ApiResponse::Value($crate::admin::schema::Schema::json(answer)))
            })
        )
    };
}
pub(super) use route;

impl Route {
    pub(super) fn document(&self) -> Value {
        let in_path = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = in_path.map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        });
        let parameters: Vec<Value> = in_path.chain(self.query.iter().map(Parameter::document)).collect();
        let (schema, media_type) = self.answer;
        let failure = json!({
            "description": "The error, with its remedy.",
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

    /// Returns its name, like `get_clients_client`.
    fn name(&self) -> String {
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let path: String = self.path.replace(['{', '}'], "").chars().map(letters).collect();
        format!("{}{path}", self.method.as_str().to_lowercase())
    }
}
