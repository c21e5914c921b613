//! nlmd's config file: one flag on each line, in TOML, for flags that the command line and the variables leave out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use toml::{Spanned, Value};

/// Read where no file is named; it may be missing.
pub(super) const DEFAULT: &str = "/etc/nlmd.toml";

/// The flags in the file as arguments of the command line, but for those that `is_given` knows already; each must pass
/// `check`. An error is for people.
pub(super) fn arguments(
    named: Option<&Path>,
    is_given: impl Fn(&str) -> bool,
    check: impl Fn(&str, &[OsString]) -> Result<(), String>,
) -> Result<Vec<OsString>, String> {
    let path = named.unwrap_or(Path::new(DEFAULT));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read the config file {}: {error}", path.display())),
    };
    let table: BTreeMap<Spanned<String>, Value> =
        toml::from_str(&text).map_err(|error| format!("the config file {}: {error}", path.display()))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let bad = |what: String| {
            let before = text.get(..key.span().start).unwrap_or_default();
            format!("the config file {}, line {}: {what}", path.display(), before.matches('\n').count() + 1)
        };
        if key.get_ref() == "config" {
            return Err(bad("`config` belongs on the command line".into()));
        }
        let key = key.get_ref().as_str();
        // A flag that is off has no argument, and is a flag all the same.
        let on = if *value == Value::Boolean(false) { &Value::Boolean(true) } else { value };
        check(key, &of(key, on).map_err(bad)?).map_err(bad)?;
        if !is_given(key) {
            arguments.extend(of(key, value).map_err(bad)?);
        }
    }
    Ok(arguments)
}

fn of(key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let with = |value: &dyn std::fmt::Display| OsString::from(format!("--{key}={value}"));
    match value {
        Value::Boolean(true) => Ok(vec![format!("--{key}").into()]),
        Value::Boolean(false) => Ok(Vec::new()),
        Value::Integer(number) => Ok(vec![with(number)]),
        Value::String(text) => Ok(vec![with(text)]),
        Value::Array(values) => {
            let texts = values.iter().map(|value| value.as_str().map(|text| with(&text)));
            texts.collect::<Option<_>>().ok_or_else(|| format!("`{key}` is a list of values that are not strings"))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => {
            Err(format!("`{key}` is neither a string, a whole number, true, false nor a list of strings"))
        }
    }
}
