//! Settings: flags win over NLMCTL_* variables (clap does that), these over the config file.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::{Common, ManagerKind};
use crate::host::private_folder;
use crate::nsm::roster::server_name;
use crate::report::Failure;
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

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
    /// The record, if one was named (the config file's does not count for [`given_db`](Self::given_db)).
    pub db: Option<PathBuf>,
    /// The record that the command line or a variable named.
    pub given_db: Option<PathBuf>,
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

/// The config file. Keys are the names of the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    manager: Option<ManagerKind>,
    control: Option<PathBuf>,
    db: Option<PathBuf>,
    name: Option<Vec<String>>,
    rpcbind_port: Option<std::num::NonZeroU16>,
    json: Option<bool>,
    quiet: Option<bool>,
    verbose: Option<u8>,
}

impl Settings {
    /// Reads the config file and puts all together.
    pub(super) fn new(flags: &Common) -> Result<Self, Failure> {
        let file = read(flags.config.as_deref())?;
        let mut names = if flags.names.is_empty() {
            let path = flags.config.as_deref().unwrap_or(Path::new(CONFIG));
            let parse = |name: &String| server_name(name).map_err(|e| bad(path, &format!("name: {e}")));
            file.name.iter().flatten().map(parse).collect::<Result<_, _>>()?
        } else {
            flags.names.clone()
        };
        let mut seen = HashSet::new();
        names.retain(|name: &CallerName| seen.insert(name.clone()));
        Ok(Self {
            manager: flags.manager.or(file.manager).unwrap_or(ManagerKind::Auto),
            control_named: flags.control.is_some() || file.control.is_some(),
            control: flags.control.clone().or(file.control).unwrap_or_else(|| CONTROL.into()),
            db: flags.db.clone().or(file.db),
            given_db: flags.db.clone(),
            names,
            rpcbind_port: flags.rpcbind_port.or(file.rpcbind_port.map(Into::into)).unwrap_or(rpcbind::PORT),
            json: flags.json.or(file.json).unwrap_or_default(),
            quiet: flags.quiet.or(file.quiet).unwrap_or_default(),
            verbose: flags.verbose.or(file.verbose).unwrap_or_default(),
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

fn bad(path: &Path, what: &str) -> Failure {
    Failure::usage(
        format!("{}: {what}", path.display()),
        "its keys are manager, control, db, name, rpcbind-port, json, quiet, verbose",
    )
}

/// A missing file is fine unless it was asked for.
fn read(given: Option<&Path>) -> Result<File, Failure> {
    let path = given.unwrap_or(Path::new(CONFIG));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|e| bad(path, e.to_string().trim_end())),
        Err(e) if e.kind() == ErrorKind::NotFound && given.is_none() => Ok(File::default()),
        Err(e) => Err(Failure::usage(
            format!("cannot read the config file {}: {e}", path.display()),
            "check the path given with --config or NLMCTL_CONFIG, and the file's permissions",
        )),
    }
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
    fn an_unknown_key_is_refused_with_file_and_key() {
        let error = settings("contrl = '/a'\n", &[]).unwrap_err();
        assert_eq!(error.kind.exit(), 2);
        let words = error.to_string();
        assert!(words.contains("nlmctl.toml") && words.contains("contrl"), "{words}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_file_and_key() {
        for bad in [
            "rpcbind-port = 0\n",
            "manager = 'samba'\n",
            "name = ['']\n",
            "name = ['aa, bb']\n",
            "json = 'yes'\n",
            "control",
        ] {
            let error = settings(bad, &[]).unwrap_err();
            let words = error.to_string();
            let key = bad.split(' ').next().unwrap().trim();
            assert!(words.contains("nlmctl.toml") && words.contains(key), "{words}");
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
