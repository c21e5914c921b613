//! What `--json` prints, as JSON schemas: the files in `schema/` are made of the types that are printed.
//!
//! The schemas say what must be there. Those who read the JSON accept more than that: a new field changes no number.
//! [`SCHEMA`] is raised when a field is removed, and only then.
//!
//! A new command: its report derives `JsonSchema` as the others do and gets a line in [`documents`]. Then
//! `BLESS=1 cargo test --lib schema` writes the files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::abort::AbortReport;
use super::args::Cli;
use super::runs::PruneReport;
use crate::demo::run::Played;
use crate::report::{
    CheckReport, ClientsReport, ErrorReport, LocksReport, NotifyReport, PlanReport, ReconcileReport, ReleaseReport,
    ReleasesReport, RunDetail, RunReport, RunsReport, SCHEMA, StatusReport,
};

/// A kind of document that is printed.
struct Document {
    /// Its file in `schema/`, without `.json`.
    name: &'static str,
    /// The commands that print it.
    printed_by: &'static [&'static str],
    schema: Value,
}

fn documents() -> Vec<Document> {
    vec![
        document::<AbortReport>("abort", &["abort"]),
        document::<CheckReport>("check", &["check"]),
        document::<ClientsReport>("clients", &["clients"]),
        document::<Played>("demo", &["demo"]),
        document::<ErrorReport>("error", &[]),
        document::<LocksReport>("locks", &["locks"]),
        document::<NotifyReport>("notify", &["notify"]),
        document::<PlanReport>("plan", &["resync --dry-run"]),
        document::<PruneReport>("prune", &["runs prune"]),
        document::<ReconcileReport>("reconcile", &["reconcile"]),
        document::<ReleaseReport>("release", &["release", "runs show"]),
        document::<ReleasesReport>("releases", &["runs releases"]),
        document::<RunReport>("run", &["resync"]),
        document::<RunDetail>("run-detail", &["runs show", "runs export"]),
        document::<RunsReport>("runs", &["runs list"]),
        document::<StatusReport>("status", &["status"]),
    ]
}

/// Commands that print no JSON but that of an error.
const PRINT_NONE: [&str; 3] = ["completions", "metrics", "runs report"];

fn document<T: JsonSchema>(name: &'static str, printed_by: &'static [&'static str]) -> Document {
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(RecursiveTransform(open));
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    let commands: Vec<_> = printed_by.iter().map(|command| format!("nlmctl {command}")).collect();
    let all = "any command that fails".to_owned();
    schema["title"] = if commands.is_empty() { all } else { commands.join(", ") }.into();
    schema["properties"]["schema"] = json!({ "const": SCHEMA, "description": "The version of this schema. It is raised only when a field is removed." });
    Document { name, printed_by, schema }
}

/// As those who read the JSON need it: more fields than these may come, and none has a default.
fn open(schema: &mut Schema) {
    schema.remove("additionalProperties");
    schema.remove("default");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // Links of the sources.
        *text = text.replace("[`", "`").replace("`]", "`");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")
}

/// The fields that must be there, by their paths.
fn fields(root: &Value, at: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(Value::String(link)) = at.get("$ref") {
        fields(root, root.pointer(link.trim_start_matches('#')).unwrap(), path, found);
    }
    for choice in ["anyOf", "oneOf"].iter().filter_map(|key| at.get(key)?.as_array()).flatten() {
        fields(root, choice, path, found);
    }
    if let Some(items) = at.get("items") {
        fields(root, items, &format!("{path}[]"), found);
    }
    for name in at.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let path = format!("{path}.{name}");
        fields(root, &at["properties"][name], &path, found);
        found.insert(path);
    }
}

fn fields_of(name: &str, schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    fields(schema, schema, name, &mut found);
    found
}

/// The checked-in schemas, by name.
fn written() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder()).into_iter().flatten().map(|entry| entry.unwrap().path());
    let read = |path: &Path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(&path))).collect()
}

/// [`SCHEMA`] is raised when a field is removed, and only then.
fn check_number(documents: &[Document]) {
    let now: BTreeSet<_> = documents.iter().flat_map(|document| fields_of(document.name, &document.schema)).collect();
    assert!(now.contains("run.clients[].locks.in_scope") && now.contains("release.release.left[].owner.svid"));
    let mut gone = BTreeSet::new();
    let mut is_raised = false;
    for (name, schema) in written() {
        gone.extend(fields_of(&name, &schema).difference(&now).cloned());
        is_raised |= schema["properties"]["schema"]["const"] != SCHEMA;
    }
    assert_eq!(
        is_raised,
        !gone.is_empty(),
        "SCHEMA is {SCHEMA}; fields that were printed and are not any more: {gone:?}"
    );
}

#[test]
fn every_schema_is_written_down_as_the_types_are_and_no_field_is_removed_without_a_new_number() {
    let documents = documents();
    check_number(&documents);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, _) in written() {
            fs::remove_file(folder().join(format!("{name}.json"))).unwrap();
        }
        for Document { name, schema, .. } in &documents {
            let text = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
            fs::write(folder().join(format!("{name}.json")), text).unwrap();
        }
    }
    let written = written();
    assert_eq!(written.len(), documents.len(), "files and kinds of documents");
    for Document { name, schema, .. } in documents {
        let file = written.iter().find(|(written, _)| written == name).map(|(_, file)| file);
        assert!(file == Some(&schema), "schema/{name}.json is not what is printed: BLESS=1 cargo test --lib schema");
    }
}

#[test]
fn every_command_has_a_schema_of_what_it_prints() {
    let cli = Cli::line();
    let commands: BTreeSet<_> = cli
        .get_subcommands()
        .flat_map(|command| {
            let name = command.get_name().to_owned();
            let below: Vec<_> = command.get_subcommands().map(|one| format!("{name} {}", one.get_name())).collect();
            if below.is_empty() { vec![name] } else { below }
        })
        .collect();
    let documents = documents();
    let with_one =
        documents.iter().flat_map(|document| document.printed_by).map(|command| command.replace(" --dry-run", ""));
    let known: BTreeSet<_> = with_one.chain(PRINT_NONE.map(str::to_owned)).collect();
    assert_eq!(commands, known);
}

#[test]
fn the_page_about_json_names_every_schema() {
    let page = fs::read_to_string(folder().with_file_name("docs").join("json.md")).unwrap();
    for Document { name, .. } in documents() {
        assert!(page.contains(&format!("(../schema/{name}.json)")), "{name}");
    }
}
