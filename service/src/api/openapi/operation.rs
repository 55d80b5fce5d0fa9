//! Pieces of operations.

use serde_json::{Map, Value, json};

use super::schema::{integer_from, reference, text, with};
use crate::api::parameters::ID;

/// The name of the security scheme.
pub(super) const SECURITY_SCHEME: &str = "KBaseHTTPBearer";

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// No token needed.
    Anyone,
    /// Any user.
    User,
    /// The user who submitted the job.
    Owner,
    /// Administrators.
    Admin,
    /// Administrators and executors.
    AdminOrExecutor,
    /// Executors.
    Executor,
    /// Whoever stages reference data.
    RefdataService,
}

impl Access {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Anyone => "Needs no token.",
            Self::User => "For any user.",
            Self::Owner => "For the job's owner.",
            Self::Admin => "For administrators.",
            Self::AdminOrExecutor => "For administrators and executors.",
            Self::Executor => "For executors.",
            Self::RefdataService => "For servers that stage reference data.",
        }
    }
}

/// One operation of the document.
#[derive(Debug)]
pub(super) struct Operation {
    path: &'static str,
    method: &'static str,
    members: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

impl Operation {
    pub(super) fn get(path: &'static str, name: &str) -> Self {
        Self::new("get", path, name)
    }

    pub(super) fn put(path: &'static str, name: &str) -> Self {
        Self::new("put", path, name)
    }

    pub(super) fn post(path: &'static str, name: &str) -> Self {
        Self::new("post", path, name)
    }

    pub(super) fn delete(path: &'static str, name: &str) -> Self {
        Self::new("delete", path, name)
    }

    /// `name` is the existing service's name of the handler; the operation's id is made of it as the
    /// existing service makes it, so that generated clients keep their names.
    fn new(method: &'static str, path: &'static str, name: &str) -> Self {
        let id: String = format!("{name}{path}_{method}")
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '_' })
            .collect();
        let members = Map::from_iter([("operationId".to_owned(), id.into())]);
        Self {
            path,
            method,
            members,
            parameters: Vec::new(),
            responses: Map::new(),
        }
    }

    /// One line for lists, and what a caller must know; who may call it is added.
    pub(super) fn about(mut self, access: Access, summary: &str, description: &str) -> Self {
        let description = format!("{description}\n\n{}", access.sentence());
        self.member("summary", summary);
        self.member("description", description.trim_start());
        if access != Access::Anyone {
            self.member("security", json!([{SECURITY_SCHEME: []}]));
        }
        self
    }

    pub(super) fn parameter(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// A JSON body that must be there.
    pub(super) fn body(self, schema: Value, examples: Value) -> Self {
        self.request(true, schema, examples)
    }

    /// A JSON body that may be absent.
    pub(super) fn optional_body(self, schema: Value, examples: Value) -> Self {
        self.request(false, schema, examples)
    }

    fn request(mut self, required: bool, schema: Value, examples: Value) -> Self {
        let content = json!({"schema": schema, "examples": examples});
        let mut body = json!({"content": {"application/json": content}});
        if required {
            body = with(body, "required", true);
        }
        self.member("requestBody", body);
        self
    }

    /// 200 with a JSON body.
    pub(super) fn answers(self, schema: Value, description: &str) -> Self {
        self.answers_as("200", "application/json", schema, description)
    }

    /// 204.
    pub(super) fn answers_nothing(self, description: &str) -> Self {
        self.answers_without_body("204", description)
    }

    pub(super) fn answers_without_body(mut self, status: &str, description: &str) -> Self {
        self.responses
            .insert(status.to_owned(), json!({"description": description}));
        self
    }

    /// A body of any media type.
    pub(super) fn answers_as(
        mut self,
        status: &str,
        media_type: &str,
        schema: Value,
        description: &str,
    ) -> Self {
        self.responses.insert(
            status.to_owned(),
            json!({"description": description, "content": {media_type: {"schema": schema}}}),
        );
        self
    }

    /// Path, method, and the operation with the errors that all have.
    pub(super) fn into_parts(mut self) -> (&'static str, &'static str, Value) {
        let errors = [
            (
                "4XX",
                "ClientError",
                "Refused: `appcode` says why to programs, `message` to people.",
            ),
            (
                "5XX",
                "ServerError",
                "A fault of the service. Tell its operators the `request_id`.",
            ),
        ];
        for (status, schema, description) in errors {
            self = self.answers_as(status, "application/json", reference(schema), description);
        }
        if let Some(Value::Object(fault)) = self.responses.get_mut("5XX") {
            fault.insert(
                "headers".to_owned(),
                json!({"Retry-After": {
                    "description": "With 503: seconds after which the same request may succeed.",
                    "schema": integer_from(1),
                }}),
            );
        }
        if !self.parameters.is_empty() {
            self.member("parameters", Value::Array(self.parameters.clone()));
        }
        self.member("responses", Value::Object(self.responses.clone()));
        (self.path, self.method, Value::Object(self.members))
    }

    fn member(&mut self, name: &str, value: impl Into<Value>) {
        self.members.insert(name.to_owned(), value.into());
    }

    /// Puts operations of one area under its name.
    pub(super) fn tagged(mut self, tag: &str) -> Self {
        self.member("tags", json!([tag]));
        self
    }
}

/// A part of the path.
pub(super) fn in_path(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
}

/// A parameter after the question mark, which may be absent.
pub(super) fn in_query(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
}

/// The job of the path.
pub(super) fn job_id() -> Value {
    in_path("job_id", text(&ID), "The job's id.")
}

/// The container of the path.
pub(super) fn container_num() -> Value {
    in_path(
        "container_num",
        integer_from(0),
        "The container's number, from 0.",
    )
}
