//! What nlmd's variables and its config file set, as arguments of the command line. The config file has one flag on each line,
//! for flags that the command line and the variables leave out.

use std::ffi::OsString;
use std::path::Path;

use clap::ArgAction;
use toml::Value;

use crate::host::{is_off, read_config, variable, variable_name};

pub(super) const PROGRAM: &str = "nlmd";
/// Read where no file is named; it may be missing.
const DEFAULT: &str = "/etc/nlmd.toml";

/// Without a value of these more hosts could call than was meant.
const LIMITING: [&str; 3] = ["allow", "listen", "config"];

/// The flags in the variables as arguments; each must pass `check`. Those that `is_given` knows already are not looked at.
pub(super) fn of_variables(
    command: &clap::Command,
    is_given: impl Fn(&str) -> bool,
    check: impl Fn(&str, &[OsString]) -> Result<(), String>,
) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    for argument in command.get_arguments() {
        let Some(key) = argument.get_long().filter(|key| !is_given(key)) else { continue };
        let name = variable_name(PROGRAM, key);
        if LIMITING.contains(&key) && std::env::var_os(&name).is_some_and(|value| value.is_empty()) {
            return Err(format!("the variable {name} is empty: give it a value, or unset it"));
        }
        let Some(value) = variable(PROGRAM, key) else { continue };
        let mut word = OsString::from(format!("--{key}"));
        match argument.get_action() {
            ArgAction::SetTrue if is_off(&value) => continue,
            ArgAction::SetTrue => {}
            ArgAction::Set | ArgAction::Append => {
                word.push("=");
                word.push(&value);
            }
            // Help and the version.
            _ => continue,
        }
        check(key, std::slice::from_ref(&word)).map_err(|what| format!("the variable {name}: {what}"))?;
        arguments.push(word);
    }
    Ok(arguments)
}

/// Likewise the flags in the file, but all of it is looked at.
pub(super) fn of_file(
    named: Option<&Path>,
    is_given: impl Fn(&str) -> bool,
    check: impl Fn(&str, &[OsString]) -> Result<(), String>,
) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    read_config(named, DEFAULT, |key, value| {
        if key == "config" {
            return Err("`config` belongs on the command line".into());
        }
        // A flag that is off has no argument, and is a flag all the same.
        let on = if *value == Value::Boolean(false) { &Value::Boolean(true) } else { value };
        if LIMITING.contains(&key) && value.as_array().is_some_and(Vec::is_empty) {
            return Err(format!("`{key}` is an empty list: give it a value, or remove this line"));
        }
        check(key, &of(key, on)?)?;
        if !is_given(key) {
            arguments.extend(of(key, value)?);
        }
        Ok(())
    })?;
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
