//! The pieces that checks of JSON documents are built from.
//!
//! A check is a function from a JSON value to [`Checked`]: the value in our types, or every fault
//! in it. A fault's path is built from the inside out: whoever looks into a member or an element
//! adds its name (`Faults::under`), so that a check knows nothing of where its value stands.
//!
//! The kinds of faults and their places are those of the existing service's validation library,
//! because clients read them; the words are ours.
//!
//! The service checks the other parts of its requests with the same pieces; where a document stands in
//! the request, or a parameter, is said when the faults become the wire's ([`Faults::into_details`]).

use serde_json::{Map, Value};

use crate::wire::error::ValidationDetail;

pub mod durations;
pub mod scalars;
pub mod times;

/// Most faults kept for one document; beyond them only the number is reported.
const MAX_FAULTS: usize = 1000;

/// Longest text that is shown as the input of a fault.
const MAX_SHOWN_CHARS: usize = 200;

/// Longest name of a member that is shown. Every fault below the member carries the name.
const MAX_SHOWN_NAME_CHARS: usize = 1024;

/// What a check gives.
pub type Checked<T> = Result<T, Faults>;

/// One step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Into a member of an object.
    Member(String),
    /// Into an element of a list.
    Element(usize),
    /// Not a step in the document: says which of several readings was tried.
    Reading(&'static str),
}

/// One thing wrong with a document.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The way to the value, last step first.
    steps: Vec<Step>,
    kind: &'static str,
    message: String,
    input: Option<Value>,
    context: Option<Value>,
}

impl Fault {
    /// A fault of `value`. `message` says what to do, as a sentence without a final full stop.
    pub fn new(kind: &'static str, value: &Value, message: impl Into<String>) -> Self {
        let input = match value {
            Value::Array(_) | Value::Object(_) => None,
            Value::String(text) if text.chars().nth(MAX_SHOWN_CHARS).is_some() => None,
            scalar => Some(scalar.clone()),
        };
        Self {
            steps: Vec::new(),
            kind,
            message: message.into(),
            input,
            context: None,
        }
    }

    /// A fault that is not about a value that was given, or about one too large to show.
    pub fn without_input(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            input: None,
            ..Self::new(kind, &Value::Null, message)
        }
    }

    /// Adds the bound that was broken.
    pub fn with_bound(mut self, name: &str, bound: impl Into<Value>) -> Self {
        self.context = Some(Value::Object(Map::from_iter([(
            name.to_owned(),
            bound.into(),
        )])));
        self
    }

    /// The way to the value as a reader writes it: `params.args[2].type`.
    pub(crate) fn json_path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Member(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Step::Element(index) => path.push_str(&format!("[{index}]")),
                Step::Reading(_) => {}
            }
        }
        path
    }

    /// What is wrong, in words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// How far into the document the fault is.
    fn depth(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| !matches!(step, Step::Reading(_)))
            .count()
    }

    /// Whether the value as a whole is of another JSON type. Where a value has several readings
    /// that is what the readings not meant say.
    fn is_type_mismatch(&self) -> bool {
        matches!(
            self.kind,
            "string_type" | "list_type" | "model_attributes_type"
        )
    }

    fn into_detail(self, part: &str) -> ValidationDetail {
        let steps = self.steps.into_iter().rev().map(|step| match step {
            Step::Member(name) => Value::from(name),
            Step::Element(index) => Value::from(index),
            Step::Reading(name) => Value::from(name),
        });
        ValidationDetail {
            kind: self.kind.to_owned(),
            loc: std::iter::once(Value::from(part)).chain(steps).collect(),
            msg: self.message,
            input: self.input,
            ctx: self.context,
        }
    }
}

/// The faults of a document, at most 1000 of them.
#[derive(Debug, Default)]
pub struct Faults {
    kept: Vec<Fault>,
    dropped: usize,
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self {
            kept: vec![fault],
            dropped: 0,
        }
    }
}

impl Faults {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Takes in the faults of another part.
    pub(crate) fn add(&mut self, other: Self) {
        let room = MAX_FAULTS.saturating_sub(self.kept.len());
        self.dropped += other.dropped + other.kept.len().saturating_sub(room);
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// Number of faults, with those not kept.
    pub(crate) const fn len(&self) -> usize {
        self.kept.len() + self.dropped
    }

    /// Notes the faults of `checked` and gives its value if there are none.
    pub fn collect<T>(&mut self, checked: Checked<T>) -> Option<T> {
        checked.map_err(|faults| self.add(faults)).ok()
    }

    /// The same faults, seen from the object that has them in its member `name`.
    pub fn under_member(self, name: &str) -> Self {
        self.under(&Step::Member(shown_name(name)))
    }

    /// The same faults, seen from the list that has them in its element `index`.
    pub(crate) fn under_element(self, index: usize) -> Self {
        self.under(&Step::Element(index))
    }

    /// The same faults, named as those of one of several readings.
    pub(crate) fn under_reading(self, name: &'static str) -> Self {
        self.under(&Step::Reading(name))
    }

    /// The same faults with other words.
    pub(crate) fn with_message(mut self, reword: impl Fn(&str) -> String) -> Self {
        for fault in &mut self.kept {
            fault.message = reword(&fault.message);
        }
        self
    }

    fn under(mut self, step: &Step) -> Self {
        for fault in &mut self.kept {
            fault.steps.push(step.clone());
        }
        self
    }

    /// The fault that tells most: the deepest, of those the first that is not merely about the type.
    pub(crate) fn most_telling(&self) -> Option<&Fault> {
        self.kept
            .iter()
            .rev()
            .max_by_key(|fault| (fault.depth(), !fault.is_type_mismatch()))
    }

    /// The faults as the wire carries them. `part` says what of the request was checked: `body`,
    /// `path` or `query`.
    #[must_use]
    pub fn into_details(self, part: &str) -> Vec<ValidationDetail> {
        let dropped = self.dropped;
        let mut details: Vec<_> = self
            .kept
            .into_iter()
            .map(|fault| fault.into_detail(part))
            .collect();
        if dropped > 0 {
            let message = format!("{dropped} more faults are not listed; correct these first");
            details.push(Fault::without_input("too_many_faults", message).into_detail(part));
        }
        details
    }
}

/// The name, or its beginning if it is very long.
fn shown_name(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN_NAME_CHARS) {
        Some((end, _)) => format!("{}...", name.split_at(end).0),
        None => name.to_owned(),
    }
}

/// The members of an object, asked for one by one; faults are collected on the way.
#[derive(Debug)]
pub struct Members<'a> {
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
    faults: Faults,
}

impl<'a> Members<'a> {
    /// Opens an object.
    ///
    /// # Errors
    /// When `value` is none.
    pub fn of(value: &'a Value) -> Checked<Self> {
        match value {
            Value::Object(object) => Ok(Self {
                object,
                known: Vec::new(),
                faults: Faults::default(),
            }),
            _ => Err(Fault::new("model_attributes_type", value, "give a JSON object").into()),
        }
    }

    /// A member that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&'a Value) -> Checked<T>,
    ) -> Option<T> {
        let checked = match self.get(name) {
            Some(value) => check(value),
            None => Err(Fault::without_input("missing", format!("give {name:?}")).into()),
        };
        self.faults
            .collect(checked.map_err(|faults| faults.under_member(name)))
    }

    /// A member that may be absent, but not null.
    pub fn defaulted<T>(
        &mut self,
        name: &'static str,
        default: T,
        check: impl FnOnce(&'a Value) -> Checked<T>,
    ) -> Option<T> {
        let checked = self.get(name).map_or(Ok(default), check);
        self.faults
            .collect(checked.map_err(|faults| faults.under_member(name)))
    }

    /// A member that may be absent or null.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&'a Value) -> Checked<T>,
    ) -> Option<Option<T>> {
        let value = self.get(name).filter(|value| !value.is_null());
        let checked = value.map(check).transpose();
        self.faults
            .collect(checked.map_err(|faults| faults.under_member(name)))
    }

    /// Ends the object: members not asked for are faults. Gives all faults.
    pub fn finish(mut self) -> Faults {
        for (name, value) in self.object {
            if !self.known.contains(&name.as_str()) {
                let known = self.known.join(", ");
                let message = format!("remove {:?}; the members are {known}", shown_name(name));
                let fault = Faults::from(Fault::new("extra_forbidden", value, message));
                self.faults.add(fault.under_member(name));
            }
        }
        self.faults
    }

    /// Ends the object: members not asked for are passed over. Gives all faults.
    pub fn finish_open(self) -> Faults {
        self.faults
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.object.get(name)
    }
}

/// Checks every element of a list.
///
/// # Errors
/// With the faults of all elements, or that `value` is no list.
pub fn list<T>(value: &Value, each: impl Fn(&Value) -> Checked<T>) -> Checked<Vec<T>> {
    let Value::Array(elements) = value else {
        return Err(Fault::new("list_type", value, "give a JSON list").into());
    };
    let mut faults = Faults::default();
    let mut checked = Vec::with_capacity(elements.len());
    for (index, element) in elements.iter().enumerate() {
        let element = each(element).map_err(|faults| faults.under_element(index));
        checked.extend(faults.collect(element));
    }
    if faults.is_empty() {
        Ok(checked)
    } else {
        Err(faults)
    }
}

/// Checks every member of an object whose names are free.
///
/// # Errors
/// With the faults of all members, or that `value` is no object.
pub fn object<T>(value: &Value, each: impl Fn(&Value) -> Checked<T>) -> Checked<Vec<(String, T)>> {
    let Value::Object(members) = value else {
        return Err(Fault::new("dict_type", value, "give a JSON object").into());
    };
    let mut faults = Faults::default();
    let mut checked = Vec::with_capacity(members.len());
    for (name, member) in members {
        let member = each(member).map_err(|faults| faults.under_member(name));
        checked.extend(faults.collect(member).map(|member| (name.clone(), member)));
    }
    if faults.is_empty() {
        Ok(checked)
    } else {
        Err(faults)
    }
}

/// One way to read a value that may take several forms.
#[expect(missing_debug_implementations, reason = "a function shows nothing")]
pub struct Reading<'a, T> {
    /// The existing service's name of it, part of the fault's place.
    pub name: &'static str,
    /// The check.
    pub check: &'a dyn Fn(&Value) -> Checked<T>,
}

/// The first reading that works.
///
/// # Errors
/// When none does, with the faults of all of them.
pub fn any_of<T>(value: &Value, readings: &[Reading<'_, T>]) -> Checked<T> {
    let mut all = Faults::default();
    for reading in readings {
        match (reading.check)(value) {
            Ok(read) => return Ok(read),
            Err(faults) => all.add(faults.under_reading(reading.name)),
        }
    }
    Err(all)
}
