//! The OpenAPI document of the API.

use super::request::ApiRequest;
use super::response::ApiError;
use super::routes;
use super::schema::Schema;
use crate::admin::route::{Route, route};

pub(super) const ROUTES: &[Route] = &[route!(GET "/openapi.json", "This document", [], document => Document)];

struct Document(serde_json::Value);

impl Schema for Document {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "object" })
    }
    fn json(self) -> serde_json::Value {
        self.0
    }
    fn read(_: &serde_json::Value) -> Result<Self, String> {
        Err("nothing: the document is not sent here".to_owned())
    }
}

async fn document(_: ApiRequest) -> Result<Document, ApiError> {
    Ok(Document(routes::document()))
}
