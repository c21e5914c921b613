//! The man pages against what the programs themselves say.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nlmctl::wire::control::{PROGRAM, Procedure};

type Words = BTreeSet<String>;

fn page(name: &str) -> String {
    fs::read_to_string(pages().join(name)).unwrap()
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).env_clear().args(args).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The options that a program's help names at the beginning of a line.
fn options(help: &str) -> Words {
    let lines = help.lines().filter(|line| line.trim_start().starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '[', '=']).filter(|word| word.starts_with("--")).take(1));
    words.map(|word| word.trim_start_matches('-').trim_end_matches("...").to_owned()).collect()
}

fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let words = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    words.filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "help").map(str::to_owned).collect()
}

/// The long options that a page names.
fn described(page: &str) -> Words {
    // `.Bl` and `.Bd` have options of their own.
    let lines = page.lines().filter(|line| !line.starts_with(".B"));
    let options = lines.flat_map(str::split_whitespace).filter_map(|word| word.strip_prefix('-'));
    let names = options.map(|word| word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
    names
        .filter(|word| word.len() > 1 && word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

/// The names in `.It Cm NAME`.
fn items(page: &str) -> Words {
    let names = page.lines().filter_map(|line| line.strip_prefix(".It Cm ")?.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn without(mut words: Words, some: &[&str]) -> Words {
    words.retain(|word| !some.contains(&word.as_str()));
    words
}

const OF_EVERY_PROGRAM: [&str; 2] = ["help", "version"];

#[test]
fn nlmctls_page_has_every_command_and_option_and_no_other_option() {
    let program = env!("CARGO_BIN_EXE_nlmctl");
    let (page, help) = (page("nlmctl.8"), said(program, &["--help"]));
    let mut known = options(&help);
    let listed = commands(&help);
    assert!(listed.len() > 9, "{listed:?}");
    for command in &listed {
        let help = said(program, &[command, "--help"]);
        known.extend(options(&help));
        let below = commands(&help);
        for word in &below {
            known.extend(options(&said(program, &[command, word, "--help"])));
            assert!(
                items(&page).contains(command) && page.contains(&format!(".It Cm {command} {word}")),
                "{command} {word}"
            );
        }
        assert!(items(&page).contains(command), "{command} is not described");
    }
    assert_eq!(without(described(&page), &OF_EVERY_PROGRAM), without(known, &OF_EVERY_PROGRAM));
}

#[test]
fn the_synopsis_has_every_option_of_every_command() {
    let program = env!("CARGO_BIN_EXE_nlmctl");
    let page = page("nlmctl.8");
    let (_, synopsis) = page.split_once(".Sh SYNOPSIS\n").unwrap();
    let (synopsis, _) = synopsis.split_once(".Sh DESCRIPTION\n").unwrap();
    let of_all = options(&said(program, &["--help"]));
    let shown = |command: &[&str]| {
        let forms = synopsis
            .split(".Nm\n")
            .filter(|form| command.iter().all(|word| form.split([' ', '\n']).any(|w| w == *word)));
        forms.flat_map(described).collect::<Words>()
    };
    let check = |command: &[&str]| {
        let help = said(program, &[command, &["--help"]].concat());
        let missing: Vec<_> =
            options(&help).difference(&of_all).filter(|o| !shown(command).contains(*o)).cloned().collect();
        assert!(missing.is_empty(), "the synopsis of {command:?} lacks {missing:?}");
    };
    for command in commands(&said(program, &["--help"])) {
        check(&[&command]);
        for word in commands(&said(program, &[&command, "--help"])) {
            check(&[&command, &word]);
        }
    }
}

#[test]
fn nlmds_pages_have_every_option_and_no_other() {
    let known = without(options(&said(env!("CARGO_BIN_EXE_nlmd"), &["--help"])), &OF_EVERY_PROGRAM);
    assert!(known.len() > 15, "{known:?}");
    assert_eq!(without(described(&page("nlmd.8")), &OF_EVERY_PROGRAM), known);
    assert_eq!(items(&page("nlmd.toml.5")), without(known, &["config"]));
}

#[test]
fn the_page_of_nlmctls_config_file_has_every_key_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nlmctl.toml");
    fs::write(&file, "no-such-key = 1\n").unwrap();
    let words = said(env!("CARGO_BIN_EXE_nlmctl"), &["--config", file.to_str().unwrap(), "status"]);
    let (_, expected) = words.split_once("the common options only: ").unwrap();
    let keys: Words = expected.lines().next().unwrap().split(", ").map(str::to_owned).collect();
    assert!(keys.len() > 5, "{words}");
    let values = ["auto", "nlmd", "knfsd", "ganesha"];
    assert_eq!(without(items(&page("nlmctl.toml.5")), &values), keys);
}

#[test]
fn quiet_is_the_same_on_both_pages_of_nlmctl() {
    let words = "no status and no progress, and no report of what was done if the exit code is 0, unless";
    for name in ["nlmctl.8", "nlmctl.toml.5"] {
        let page = page(name).split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(page.contains(words), "{name}");
    }
}

#[test]
fn the_page_of_the_control_protocol_has_its_number_and_every_procedure_as_it_is_served() {
    let page = page("nlmctl-control.7");
    assert!(page.contains(&format!("0x{PROGRAM:X}")) && page.contains(&PROGRAM.to_string()));
    for procedure in Procedure::ALL {
        let kind = if procedure.is_read_only() { "reads" } else { "changes" };
        let row = format!(".It Cm {procedure:?} Ta {} Ta {kind} Ta ", *procedure as u32);
        assert!(page.contains(&row), "{row}");
    }
    assert_eq!(items(&page).len(), Procedure::ALL.len());
}

#[test]
fn a_page_that_another_one_names_is_there() {
    let ours: Words =
        fs::read_dir(pages()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in &ours {
        let text = page(name);
        let named = text.lines().filter_map(|line| line.strip_prefix(".Xr nlm")).map(|rest| {
            let mut words = rest.split_whitespace();
            format!("nlm{}.{}", words.next().unwrap(), words.next().unwrap())
        });
        for other in named {
            assert!(ours.contains(&other), "{name} names {other}, which is not there");
        }
    }
}

/// What a database has, in the words of SQLite without comments, quotes and white space.
fn structure(connection: &rusqlite::Connection) -> Words {
    let mut query = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let statements = query.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
    let bare = |sql: String| {
        let lines: String = sql.lines().filter_map(|line| line.split("--").next()).collect();
        lines.split(|c: char| c.is_whitespace() || c == '"').collect()
    };
    statements.map(bare).collect()
}

#[test]
fn the_pages_of_the_databases_have_the_schemas_that_the_migrations_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (migrations, page) in [("migrations", "docs/record.sql"), ("migrations/nlmd", "docs/nlmd.sql")] {
        let entries = fs::read_dir(root.join(migrations)).unwrap().map(|entry| entry.unwrap().path());
        let steps: BTreeSet<PathBuf> = entries.filter(|path| path.is_file()).collect();
        assert!(steps.len() > 2, "{steps:?}");
        let of = |files: &[PathBuf]| {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            for file in files {
                connection.execute_batch(&fs::read_to_string(file).unwrap()).unwrap();
            }
            structure(&connection)
        };
        let (made, told) = (of(&steps.into_iter().collect::<Vec<_>>()), of(&[root.join(page)]));
        assert_eq!(made, told, "{page} is another schema than {migrations} makes");
    }
}
