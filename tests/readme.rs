//! README and docs: their commands are understood, and what they link to is there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use nlmctl::cli::args::Cli;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(top().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let texts = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let files = texts.chain(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| top().join(name)));
    files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The commands in a page's blocks for a shell or a terminal, each without its comment.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let shell = blocks.filter(|block| block.starts_with("sh\n") || block.starts_with("console\n"));
    let lines = shell.flat_map(str::lines).map(|line| line.trim_start_matches(['$', '#']).trim());
    lines.map(|line| line.split(" #").next().unwrap().trim_end_matches('&').trim().to_owned()).collect()
}

#[test]
fn every_command_that_is_shown_is_understood() {
    let mut seen = 0;
    for (path, page) in pages() {
        for command in commands(&page) {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["nlmctl", ..] => {
                    let parsed = Cli::try_parse_from(&words);
                    assert!(parsed.is_ok(), "{}: {command}: {}", path.display(), parsed.unwrap_err());
                    seen += 1;
                }
                ["nlmd", rest @ ..] => {
                    let nlmd = Command::new(env!("CARGO_BIN_EXE_nlmd")).args(rest).arg("--help").output().unwrap();
                    assert!(nlmd.status.success(), "{}: {command}", path.display());
                }
                _ => {}
            }
        }
    }
    assert!(seen > 20, "{seen} commands");
}

#[test]
fn every_file_that_is_linked_to_is_there() {
    let mut seen = 0;
    for (path, page) in pages() {
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let target = path.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{} links to {link}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} links");
}
