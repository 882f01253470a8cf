//! The `Status` objects by which an API server says no.
//!
//! Their words follow `k8s.io/apimachinery/pkg/api/errors`: clients distinguish errors
//! by code, reason and details, people by the message.

use serde_json::{Value, json};

use super::resource::{Resource, Verb};

/// A failure, as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The HTTP status code.
    pub code: u16,
    /// The machine's word for it, as in `Expired`.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// `details`; null where there are none.
    pub details: Value,
    /// When to ask again, in seconds: the header Retry-After.
    pub retry_after: Option<u64>,
    /// A token to go on with, where a page's token has expired.
    pub continue_token: Option<String>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason, message, details: Value::Null, retry_after: None, continue_token: None }
    }

    fn about(mut self, resource: Resource, name: &str) -> Self {
        let mut details = json!({"kind": resource.plural()});
        if !name.is_empty() {
            details["name"] = name.into();
        }
        let group = resource.group().name();
        if !group.is_empty() {
            details["group"] = group.into();
        }
        self.details = details;
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: the credentials are not known.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the credentials are known and not enough.
    #[must_use]
    pub fn forbidden(resource: Resource, verb: Verb) -> Self {
        let (name, group) = (resource.plural(), resource.group().name());
        let message = format!(
            "{} is forbidden: User \"npc\" cannot {} resource \"{name}\" in API group \"{group}\" at the cluster scope",
            resource.qualified(),
            verb.name(),
        );
        Self::new(403, "Forbidden", message).about(resource, "")
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self { details: json!({}), ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }

    /// 405: the path does not take this method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self { details: json!({}), ..Self::new(405, "MethodNotAllowed", message) }
    }

    /// 409: there is one of this name.
    #[must_use]
    pub fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409: the object is not what the client thinks it is.
    #[must_use]
    pub fn conflict(resource: Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409: the object has another `resourceVersion` by now.
    #[must_use]
    pub fn modified(resource: Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 410: this point of the history is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 as a watch says it.
    #[must_use]
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 415: the body is of a type that cannot be read.
    #[must_use]
    pub fn unsupported_media_type() -> Self {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        Self { details: json!({}), ..Self::new(415, "UnsupportedMediaType", message) }
    }

    /// 422: an object or the options of a request break a rule. Each cause is
    /// the reason, the message and the field.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[(&str, String, &str)]) -> Self {
        let said: Vec<String> = causes.iter().map(|(_, message, field)| format!("{field}: {message}")).collect();
        let said = if said.len() == 1 { said.concat() } else { format!("[{}]", said.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = format!("{qualified} \"{name}\" is invalid: {said}");
        let causes: Vec<Value> = (causes.iter())
            .map(|(reason, message, field)| json!({"reason": reason, "message": message, "field": field}))
            .collect();
        let mut details = json!({"kind": kind, "causes": causes});
        for (key, value) in [("group", group), ("name", name)].into_iter().filter(|(_, value)| !value.is_empty()) {
            details[key] = value.into();
        }
        Self { details, ..Self::new(422, "Invalid", message) }
    }

    /// 429: too many requests; come back after so many seconds.
    #[must_use]
    pub fn too_many_requests(seconds: u64) -> Self {
        let details = json!({"retryAfterSeconds": seconds});
        let message = "too many requests, please try again later";
        Self { details, retry_after: Some(seconds), ..Self::new(429, "TooManyRequests", message) }
    }

    /// 500: the server is broken.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({"causes": [{"message": message}]});
        Self { details, ..Self::new(500, "InternalError", format!("Internal error occurred: {message}")) }
    }

    /// 503: the server is not ready.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "apiserver not ready")
    }

    /// 504: the server has not seen this version yet.
    #[must_use]
    pub fn too_large(asked: u64, current: u64) -> Self {
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        let details = json!({"causes": [cause], "retryAfterSeconds": 1});
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self { details, retry_after: Some(1), ..Self::new(504, "Timeout", message) }
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_the_real_servers() {
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "networkpolicies.networking.k8s.io \"web\" not found", "reason": "NotFound",
            "details": {"name": "web", "group": "networking.k8s.io", "kind": "networkpolicies"}, "code": 404,
        });
        assert_eq!(Failure::not_found(Resource::NetworkPolicies, "web").status(), expected);
    }
}
