//! The OpenAPI 3.1 document: the paths come from the table of resources, the schemas from `openapi.json`.

use axum::{Extension, body::Bytes, http::Method};
use serde_json::{Map, Value, json};

use super::{
    answer::{self, Answer},
    problem::{self, KINDS, Problem},
    route::Route,
    segment::Segment,
    tasks,
};
use crate::config::Scope;

/// Schemas and parameters.
const PARTS: &str = include_str!("openapi.json");

/// The document, written once.
#[derive(Debug, Clone)]
pub(super) struct Document(Bytes);

impl Document {
    pub(super) fn of(table: &[Route]) -> Self {
        Self(document_of(table).to_string().into())
    }
}

/// `GET /v1/openapi.json`
pub(super) async fn document(Extension(Document(text)): Extension<Document>) -> Answer {
    Ok(answer::of_type("application/json", text))
}

/// `GET /problems/{name}`
pub(super) async fn problem_type(Segment(name): Segment) -> Answer {
    let kind = KINDS.iter().find(|kind| kind.name == name);
    let kind = kind.ok_or_else(|| Problem::new(&problem::NOT_FOUND, "no such type of problem"))?;
    answer::json(&json!({ "type": format!("/problems/{}", kind.name), "status": kind.status.as_u16(), "title": kind.title }))
}

pub(super) fn document_of(table: &[Route]) -> Value {
    let mut parts: Value = serde_json::from_str(PARTS).unwrap_or_default();
    let parameters = parts["parameters"].take();
    // An operation's filter takes what the query of the list takes.
    let filter: Map<String, Value> =
        tasks::FILTER.iter().map(|name| ((*name).to_owned(), parameters["query"][name]["schema"].clone())).collect();
    parts["schemas"]["NewOperation"]["properties"]["filter"]["properties"] = filter.into();
    let mut paths: Map<String, Value> = Map::new();
    for route in table {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation(route, &parameters);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "taskhost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Enqueue tasks and steer a taskhost. docs/http.md has examples.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [{ "name": "v1", "description": "The API" }, { "name": "health", "description": "For supervisors and load balancers" }],
        "paths": paths,
        "components": {
            "schemas": parts["schemas"].take(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`taskhost token new NAME --scope …` makes one. Without any token in its settings a server takes every request of its own machine." },
            },
        },
    })
}

fn operation(route: &Route, parameters: &Value) -> Value {
    let Route { method, path, about, scope, query, takes, gives: (status, gives), .. } = route;
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut taken: Vec<Value> = in_path.map(|name| parameter(parameters, name, "path")).collect();
    taken.extend(query.iter().map(|name| parameter(parameters, name, "query")));
    if (method, *path) == (&Method::POST, "/v1/tasks") {
        taken.push(parameter(parameters, "Idempotency-Key", "header"));
    }
    let mut answers = Map::new();
    let mut success = json!({ "description": about });
    if let Some(schema) = gives {
        success["content"] = content(schema);
    }
    answers.insert(status.to_string(), success);
    if (method, *path) == (&Method::POST, "/v1/tasks") {
        let same = json!({ "description": "The task was there already: its view", "content": content("Task") });
        answers.insert("200".to_owned(), same);
    }
    if (method, *path) == (&Method::POST, "/v1/operations") {
        answers.insert("200".to_owned(), json!({ "description": "A dry run: how many it would change", "content": content("Rehearsal") }));
    }
    if *path == "/readyz" {
        answers.insert("503".to_owned(), json!({ "description": "Requests should go elsewhere", "content": content("Health") }));
    }
    let problem = json!({
        "description": "A problem (RFC 9457)",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    answers.insert("default".to_owned(), problem);
    let mut operation = json!({
        "operationId": operation_id(method, path),
        "summary": about,
        "tags": [if path.starts_with("/v1/") { "v1" } else { "health" }],
        "responses": answers,
    });
    if !taken.is_empty() {
        operation["parameters"] = taken.into();
    }
    if let Some(schema) = takes {
        operation["requestBody"] = json!({ "required": true, "content": content(schema) });
    }
    operation["security"] = match scope {
        // A server without tokens asks for none.
        Some(_) => json!([{ "token": [] }, {}]),
        None => json!([]),
    };
    if let Some(scope) = scope {
        let scopes = if path.ends_with("/log") { vec![scope.as_str(), Scope::Payload.as_str()] } else { vec![scope.as_str()] };
        operation["x-scopes"] = scopes.into();
    }
    operation
}

fn parameter(parameters: &Value, name: &str, place: &str) -> Value {
    let known = &parameters[place][name];
    let mut parameter = json!({ "name": name, "in": place, "schema": known["schema"], "description": known["description"] });
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

/// A body of a schema. Lines of JSON have a type of their own. A stream of events has no schema in OpenAPI 3.1.
fn content(schema: &str) -> Value {
    if ["TaskEvents", "Events"].contains(&schema) {
        return json!({ "text/event-stream": {} });
    }
    let kind = match schema {
        "NewTasks" | "BulkAnswers" | "LogLines" => "application/x-ndjson",
        "Metrics" => "text/plain",
        _ => "application/json",
    };
    json!({ kind: { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

/// `listTasks` and the like: the method and the fixed parts of the path.
fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.as_str().to_ascii_lowercase();
    for part in path.split(['/', '.']).filter(|part| !part.is_empty() && *part != "v1") {
        let part = part.trim_matches(['{', '}']);
        let mut letters = part.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}
