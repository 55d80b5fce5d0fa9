//! REST and Kafka payloads, named as in the contract's OpenAPI document. Absent members are left
//! out, never null, unless a type says otherwise.

pub mod attempt;
pub mod container;
pub mod error;
pub mod image;
pub mod job;
pub mod refdata;
pub mod root;
