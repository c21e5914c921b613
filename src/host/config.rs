//! What is set for a program beside its command line: variables, and a config file in TOML. Errors are for people.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::Path;

use toml::{Spanned, Value};

/// The variable of a program's option: `NLMD_NLM_PORT` for nlmd's `nlm-port`.
pub fn variable_name(program: &str, key: &str) -> String {
    format!("{program}_{key}").to_uppercase().replace('-', "_")
}

/// What is set in it. An empty one counts as not set.
pub fn variable(program: &str, key: &str) -> Option<OsString> {
    std::env::var_os(variable_name(program, key)).filter(|value| !value.is_empty())
}

/// Whether a variable with this value switches off what it is for.
pub fn is_off(value: &OsStr) -> bool {
    let word = value.to_string_lossy().to_lowercase();
    ["0", "n", "no", "f", "false", "off"].contains(&word.as_str())
}

/// Hands out each key of the config file with its value. Without a `named` file it is `default`, which may be missing.
pub fn read_config(
    named: Option<&Path>,
    default: &str,
    mut take: impl FnMut(&str, &Value) -> Result<(), String>,
) -> Result<(), String> {
    let path = named.unwrap_or(Path::new(default));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(()),
        Err(error) => return Err(format!("cannot read the config file {}: {error}", path.display())),
    };
    let bad = |at: usize, what: &str| {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("the config file {}, line {line}: {what}", path.display())
    };
    let table: BTreeMap<Spanned<String>, Value> = toml::from_str(&text)
        .map_err(|error| bad(error.span().map_or(0, |span| span.start), &error.message().replace('\n', ", ")))?;
    table.iter().try_for_each(|(key, value)| take(key.get_ref(), value).map_err(|what| bad(key.span().start, &what)))
}
