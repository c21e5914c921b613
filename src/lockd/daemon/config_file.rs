//! nlmd's config file: a flag a line, in TOML, for those that the command line and the variables leave open.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use toml::Value;

/// Read where no file is named; it may be missing.
pub(super) const DEFAULT: &str = "/etc/nlmd.toml";

/// The flags in the file as arguments of the command line, but for those that `is_given` knows already. An error is
/// for people.
pub(super) fn arguments(named: Option<&Path>, is_given: impl Fn(&str) -> bool) -> Result<Vec<OsString>, String> {
    let path = named.unwrap_or(Path::new(DEFAULT));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read the config file {}: {error}", path.display())),
    };
    let bad = |what: String| format!("the config file {}: {what}", path.display());
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(error.to_string()))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        if key == "config" {
            return Err(bad("`config` belongs on the command line".into()));
        }
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
            texts.collect::<Option<_>>().ok_or_else(|| format!("`{key}` is a list of something else than strings"))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => {
            Err(format!("`{key}` is neither a string, a whole number, true, false nor a list of strings"))
        }
    }
}
