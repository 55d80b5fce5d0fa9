//! The parts of a request, checked together: all their faults are reported at once, those of the path
//! first, then the query's, then the body's.

use serde_json::Value;

use cts_shared::validation::{Checked, Fault, Faults};
use cts_shared::wire::error::ValidationDetail;

use crate::error::Error;

use super::error::ApiError;
use super::extract::{JsonBody, QueryParams};

/// The faults found so far. Each check gives its value unless it found one.
#[derive(Debug, Default)]
pub struct Checks(Vec<ValidationDetail>);

impl Checks {
    /// A path parameter.
    pub fn path<T>(
        &mut self,
        name: &str,
        text: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<T> {
        self.note(
            "path",
            check(&Value::from(text)).map_err(|faults| faults.under_member(name)),
        )
    }

    /// A query parameter that may be absent.
    pub fn query<T>(
        &mut self,
        query: &QueryParams,
        name: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<Option<T>> {
        let checked = query
            .get(name)
            .map(|text| check(&Value::from(text)))
            .transpose();
        self.note("query", checked.map_err(|faults| faults.under_member(name)))
    }

    /// A query parameter that must be there.
    pub fn required_query<T>(
        &mut self,
        query: &QueryParams,
        name: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<T> {
        let required = |value: Option<T>| {
            value.ok_or_else(|| {
                let fault = Fault::without_input("missing", format!("give {name:?}"));
                Faults::from(fault).under_member(name)
            })
        };
        let given = self.query(query, name, check)?;
        self.note("query", required(given))
    }

    /// The body.
    pub fn body<T>(
        &mut self,
        body: &JsonBody,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<T> {
        self.note("body", body.required().and_then(check))
    }

    /// A body that may be absent or null.
    pub fn optional_body<T>(
        &mut self,
        body: &JsonBody,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<Option<T>> {
        let checked = body.optional().and_then(|body| body.map(check).transpose());
        self.note("body", checked)
    }

    /// The answer to a request with faults.
    #[must_use]
    pub fn refuse(self) -> ApiError {
        Error::Invalid(self.0).into()
    }

    fn note<T>(&mut self, part: &str, checked: Checked<T>) -> Option<T> {
        checked
            .map_err(|faults| self.0.extend(faults.into_details(part)))
            .ok()
    }
}

/// One path parameter, of a request that has nothing else to check.
///
/// # Errors
/// 30010.
pub fn only_path<T>(
    name: &str,
    text: &str,
    check: impl FnOnce(&Value) -> Checked<T>,
) -> Result<T, ApiError> {
    let mut checks = Checks::default();
    match checks.path(name, text, check) {
        Some(value) => Ok(value),
        None => Err(checks.refuse()),
    }
}
