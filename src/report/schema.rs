//! The JSON schema of values that write themselves as JSON; the others derive theirs.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{FailureKind, Stamp};
use crate::wire::types::Address;

macro_rules! written_by_hand {
    ($($type:ident: $schema:tt;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

written_by_hand! {
    Address: { "description": "An IPv4 or IPv6 address.", "type": "string" };
    Stamp: { "description": "A time in UTC.", "type": "string", "format": "date-time" };
    FailureKind: { "description": "The exit code.", "enum": [1, 2, 4, 5] };
}
