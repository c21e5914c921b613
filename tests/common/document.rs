//! What nlmctl prints as JSON, held against the schemas in `schema/`.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

/// A schema that lets no field pass that it does not name.
struct Strict {
    /// What the document has at its top.
    keys: BTreeSet<String>,
    name: String,
    validator: Validator,
}

static SCHEMAS: LazyLock<Vec<Strict>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let mut schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
            close(&mut schema);
            let validator = jsonschema::validator_for(&schema).unwrap();
            Strict { keys, name: path.file_stem().unwrap().to_str().unwrap().to_owned(), validator }
        })
        .collect()
});

/// Users accept fields that they do not know. A test of ours does not: each one is named by a schema.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.contains_key("properties") {
                map.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One document, as it was printed.
#[track_caller]
pub fn document(text: impl AsRef<[u8]>) -> Value {
    let text = String::from_utf8_lossy(text.as_ref());
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text:?}"));
    let keys: BTreeSet<String> = document.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
    let Some(schema) = SCHEMAS.iter().find(|schema| schema.keys == keys) else {
        panic!("no file in schema/ is of a document with just {keys:?}: {document:#}");
    };
    let wrong: Vec<_> =
        schema.validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "not as schema/{}.json says: {wrong:#?} in {document:#}", schema.name);
    document
}

/// Documents, one a line.
#[track_caller]
pub fn documents(text: &str) -> Vec<Value> {
    text.lines().map(document).collect()
}
