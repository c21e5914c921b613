//! Settings: flags win over NLMCTL_* variables, these over the config file. Variables and the file have the same keys and go
//! through [`Layer::set`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use toml::Value;

use super::args::{Common, ManagerKind};
use crate::host::{is_off, private_folder, read_config, variable, variable_name};
use crate::nsm::roster::server_name;
use crate::report::Failure;
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

/// The variables begin so.
pub(super) const PROGRAM: &str = "nlmctl";
const CONFIG: &str = "/etc/nlmctl.toml";
const CONTROL: &str = "/run/nlmd/control.sock";
const ROOTS_RECORD: &str = "/var/lib/nlmctl/runs.db";

/// What every command knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which lock manager to drive.
    pub manager: ManagerKind,
    pub control: PathBuf,
    /// Whether the user named it: then it is nlmd's.
    pub control_named: bool,
    /// The record, if one was named.
    pub db: Option<PathBuf>,
    /// The record that the command line named.
    pub typed_db: Option<PathBuf>,
    /// Names under which clients know this server; empty: to be found out.
    pub names: Vec<CallerName>,
    /// The port of the clients' rpcbind.
    pub rpcbind_port: u16,
    pub json: bool,
    /// No status on stderr.
    pub quiet: bool,
    /// How much more to say on stderr.
    pub verbose: u8,
}

/// What the variables say, or the config file. Keys are the names of the flags.
#[derive(Debug, Default)]
struct Layer {
    manager: Option<ManagerKind>,
    control: Option<PathBuf>,
    db: Option<PathBuf>,
    names: Vec<CallerName>,
    rpcbind_port: Option<u16>,
    json: Option<bool>,
    quiet: Option<bool>,
    verbose: Option<u8>,
}

const KEYS: [&str; 8] = ["manager", "control", "db", "name", "rpcbind-port", "json", "quiet", "verbose"];

fn is_typed(flags: &Common, key: &str) -> bool {
    match key {
        "manager" => flags.manager.is_some(),
        "name" => !flags.names.is_empty(),
        "rpcbind-port" => flags.rpcbind_port.is_some(),
        "verbose" => flags.verbose.is_some(),
        // Any value of the others makes sense.
        _ => false,
    }
}

/// Puts in a value that makes sense; else the error says what would.
fn put<T>(slot: &mut Option<T>, value: Option<T>, expected: &str) -> Result<(), String> {
    *slot = value;
    if slot.is_some() { Ok(()) } else { Err(expected.to_owned()) }
}

impl Layer {
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let path = || value.as_str().map(PathBuf::from);
        match key {
            "manager" => {
                let kind = value.as_str().and_then(|word| ManagerKind::from_str(word, false).ok());
                put(&mut self.manager, kind, "auto, nlmd, knfsd or ganesha")
            }
            "control" => put(&mut self.control, path(), "a path, as a string"),
            "db" => put(&mut self.db, path(), "a path, as a string"),
            "name" => {
                let texts = value.as_array().and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
                let texts = texts.ok_or("`name` is a list of strings: name = [\"nfs.example.org\", \"nfs\"]")?;
                let names: Result<_, _> = texts.into_iter().map(server_name).collect();
                self.names = names.map_err(|what| format!("`name`: {what}"))?;
                return Ok(());
            }
            "rpcbind-port" => {
                let port = value.as_integer().and_then(|number| u16::try_from(number).ok());
                put(&mut self.rpcbind_port, port.filter(|port| *port > 0), "a port: 1 to 65535")
            }
            "json" => put(&mut self.json, value.as_bool(), "true or false"),
            "quiet" => put(&mut self.quiet, value.as_bool(), "true or false"),
            "verbose" => {
                let level = value.as_integer().and_then(|number| u8::try_from(number).ok());
                put(&mut self.verbose, level, "a number: 0, 1 or 2")
            }
            _ => Err(format!("not a key of this file, which has the common options only: {}", KEYS.join(", "))),
        }
        .map_err(|what| format!("`{key}` is {what}"))
    }

    /// A variable is not looked at if its flag is given.
    fn of_variables(flags: &Common) -> Result<Self, Failure> {
        let mut layer = Self::default();
        for key in KEYS.into_iter().filter(|key| !is_typed(flags, key)) {
            let Some(given) = variable(PROGRAM, key) else { continue };
            let text = given.to_string_lossy();
            let value = match key {
                "name" => Value::Array(text.split(',').map(Value::from).collect()),
                "json" | "quiet" => Value::Boolean(!is_off(&given)),
                _ => text.parse().map_or_else(|_| Value::from(&*text), Value::Integer),
            };
            match key {
                // A path may have any bytes.
                "control" => layer.control = Some(given.into()),
                "db" => layer.db = Some(given.into()),
                _ => layer.set(key, &value).map_err(|what| {
                    let name = variable_name(PROGRAM, key);
                    Failure::usage(
                        format!("the variable {name} is {text:?}: {what}"),
                        format!("correct or unset {name}"),
                    )
                })?,
            }
        }
        Ok(layer)
    }

    fn of_file(named: Option<&Path>) -> Result<Self, Failure> {
        let mut layer = Self::default();
        read_config(named, CONFIG, |key, value| layer.set(key, value)).map_err(|what| {
            Failure::usage(
                what,
                "correct the file, or name another one with --config or NLMCTL_CONFIG; nlmctl.toml(5) describes it",
            )
        })?;
        Ok(layer)
    }
}

impl Settings {
    /// Reads the variables and the config file, and puts all together.
    pub(super) fn new(flags: &Common) -> Result<Self, Failure> {
        let variables = Layer::of_variables(flags)?;
        let named = flags.config.clone().or_else(|| variable(PROGRAM, "config").map(PathBuf::from));
        let file = Layer::of_file(named.as_deref())?;
        let names = [flags.names.clone(), variables.names, file.names];
        let mut names = names.into_iter().find(|names| !names.is_empty()).unwrap_or_default();
        let mut seen = HashSet::new();
        names.retain(|name: &CallerName| seen.insert(name.clone()));
        let control = flags.control.clone().or(variables.control).or(file.control);
        Ok(Self {
            manager: flags.manager.or(variables.manager).or(file.manager).unwrap_or(ManagerKind::Auto),
            control_named: control.is_some(),
            control: control.unwrap_or_else(|| CONTROL.into()),
            db: flags.db.clone().or(variables.db).or(file.db),
            typed_db: flags.db.clone(),
            names,
            rpcbind_port: flags.rpcbind_port.or(variables.rpcbind_port).or(file.rpcbind_port).unwrap_or(rpcbind::PORT),
            json: flags.json.or(variables.json).or(file.json).unwrap_or_default(),
            quiet: flags.quiet.or(variables.quiet).or(file.quiet).unwrap_or_default(),
            verbose: flags.verbose.or(variables.verbose).or(file.verbose).unwrap_or_default(),
        })
    }

    /// Where the record is.
    pub fn record_path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.db {
            return Ok(path.clone());
        }
        default_record(nix::unistd::geteuid().is_root(), |key| std::env::var_os(key).map(PathBuf::from)).ok_or_else(
            || {
                Failure::usage(
                    "no place for the record: neither XDG_STATE_HOME nor HOME is an absolute path",
                    "name a database with --db",
                )
            },
        )
    }

    /// Where the record is, for writing: the default place's directory is made where it is missing,
    /// one that the user named is not.
    pub(super) fn record_path_made(&self) -> Result<PathBuf, Failure> {
        let path = self.record_path()?;
        if let (None, Some(directory)) = (&self.db, path.parent()) {
            private_folder(directory).map_err(|e| {
                Failure::failed(
                    format!("cannot use the record's directory {}: {e}", directory.display()),
                    "create it, or name another database with --db",
                )
            })?;
        }
        Ok(path)
    }
}

/// As the XDG base directory specification has it: a relative path counts as absent.
fn default_record(is_root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if is_root {
        return Some(ROOTS_RECORD.into());
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = env("XDG_STATE_HOME")
        .filter(absolute)
        .or_else(|| env("HOME").filter(absolute).map(|home| home.join(".local/state")))?;
    Some(state.join("nlmctl/runs.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: &str, flags: &[&str]) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nlmctl.toml");
        std::fs::write(&path, file).unwrap();
        let line = ["nlmctl", "status", "--config", path.to_str().unwrap()];
        let cli = super::super::args::Cli::read(line.iter().chain(flags)).unwrap();
        Settings::new(&cli.common)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "control = '/a'\nrpcbind-port = 1111\nname = ['x', 'y']\nmanager = 'nlmd'\njson = true\n";
        let from_file = settings(file, &[]).unwrap();
        assert_eq!(from_file.control, Path::new("/a"));
        assert_eq!(from_file.rpcbind_port, 1111);
        assert_eq!(from_file.names.len(), 2);
        assert_eq!(from_file.manager, ManagerKind::Nlmd);
        assert!(from_file.json);
        let with_flags = settings(file, &["--control", "/b", "--name", "z", "--rpcbind-port", "2"]).unwrap();
        assert_eq!(with_flags.control, Path::new("/b"));
        assert_eq!(with_flags.names.iter().map(CallerName::as_str).collect::<Vec<_>>(), ["z"]);
        assert_eq!(with_flags.rpcbind_port, 2);
        let neither = settings("", &[]).unwrap();
        assert_eq!(neither.control, Path::new(CONTROL));
        assert_eq!(neither.rpcbind_port, 111);
    }

    #[test]
    fn what_may_be_given_more_than_once_adds_up_wherever_it_stands_and_a_name_counts_once() {
        let read = |line: &str| {
            let words = ["nlmctl", "--config", "/dev/null"].into_iter().chain(line.split(' '));
            Settings::new(&super::super::args::Cli::read(words).unwrap().common).unwrap()
        };
        let names = |line| read(line).names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(names("--name a,b notify --name c --state 3 --name a"), "a b c");
        assert_eq!(names("--name a runs --name b list --name c"), "a b c");
        assert_eq!(names("runs --name b list"), "b");
        assert_eq!(read("-v runs -v list -v").verbose, 3);
        assert_eq!(read("runs -v list").verbose, 1);
    }

    #[test]
    fn an_error_in_the_file_names_the_file_the_line_and_what_is_expected() {
        for (file, words) in [
            ("contrl = '/a'\n", ", line 1: `contrl` is not a key of this file"),
            (
                "json = true\n\ngrace = '5s'\n",
                ", line 3: `grace` is not a key of this file, which has the common options",
            ),
            ("rpcbind-port = 0\n", "`rpcbind-port` is a port: 1 to 65535"),
            ("rpcbind-port = 70000\n", "`rpcbind-port` is a port: 1 to 65535"),
            ("manager = 'samba'\n", "`manager` is auto, nlmd, knfsd or ganesha"),
            ("name = 'x'\n", "`name` is a list of strings: name = ["),
            ("name = ['']\n", "`name`: "),
            ("name = ['aa, bb']\n", "`name`: "),
            ("json = 'yes'\n", "`json` is true or false"),
            ("db = 1\n", "`db` is a path"),
            ("verbose = -1\n", "`verbose` is a number"),
            ("quiet = true\ncontrol", ", line 2: "),
            ("json = true\njson = true\n", ", line 2: duplicate key"),
        ] {
            let error = settings(file, &[]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("nlmctl.toml") && said.contains(words), "{file:?}: {said}");
            assert_eq!(error.kind.exit(), 2);
        }
    }

    #[test]
    fn a_config_file_that_was_asked_for_must_be_there() {
        let cli = super::super::args::Cli::read(["nlmctl", "status", "--config", "/nonexistent.toml"]).unwrap();
        let error = Settings::new(&cli.common).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.toml"), "{error}");
    }

    #[test]
    fn the_record_is_in_var_lib_for_root_and_in_the_state_folder_for_others() {
        let env = |xdg: Option<&'static str>, home: Option<&'static str>| {
            move |key: &str| if key == "HOME" { home } else { xdg }.map(PathBuf::from)
        };
        let path = |root, xdg, home| default_record(root, env(xdg, home)).map(|p| p.to_str().unwrap().to_owned());
        assert_eq!(path(true, Some("/s"), None).as_deref(), Some("/var/lib/nlmctl/runs.db"));
        assert_eq!(path(false, Some("/s"), Some("/h")).as_deref(), Some("/s/nlmctl/runs.db"));
        assert_eq!(path(false, Some("s"), Some("/h")).as_deref(), Some("/h/.local/state/nlmctl/runs.db"));
        assert_eq!(path(false, None, Some("h")), None);
        assert_eq!(path(false, None, None), None);
    }
}
