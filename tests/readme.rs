//! README and docs: their commands are understood, and what they link to is there.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nlmctl::internals::Cli;

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
                    let parsed = Cli::read(&words);
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

/// What a terminal shows of commands and their golden output, as a picture that follows the reader's light or dark theme.
fn terminal(shown: &[(&str, &str)]) -> String {
    let golden = |name: &str| fs::read_to_string(top().join("tests/golden").join(name)).unwrap();
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let lines = |(command, name): &(&str, &str)| format!("# {command}\n{}", golden(name));
    let lines: Vec<String> =
        shown.iter().flat_map(|one| lines(one).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
    let (width, height) = (widest * 8 + 32, lines.len() * 18 + 28);
    let style = "rect{fill:#f6f8fa}text{fill:#1f2328;white-space:pre;font:13px ui-monospace,Menlo,Consolas,monospace}\
                 @media(prefers-color-scheme:dark){rect{fill:#161b22}text{fill:#e6edf3}}";
    let text = |(number, line): (usize, &String)| {
        // Its length is fixed, so that columns stand below each other in any font.
        let (y, length) = (number * 18 + 27, line.chars().count() * 8);
        format!("<text x=\"16\" y=\"{y}\" textLength=\"{length}\">{}</text>\n", escaped(line))
    };
    let texts: String = lines.iter().enumerate().filter(|(_, line)| !line.is_empty()).map(text).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <style>{style}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"8\"/>\n{texts}</svg>\n"
    )
}

#[test]
fn the_pictures_of_the_terminal_show_what_nlmctl_prints() {
    let release = "nlmctl release --client c1 --file /srv/x/a --range 0:10 --yes";
    let pictures = [
        ("docs/run.svg", terminal(&[("nlmctl runs show 6f1c", "run-settled.100.txt")])),
        (
            "docs/release.svg",
            terminal(&[
                ("nlmctl locks", "locks-stuck.txt"),
                (release, "release-stuck.txt"),
                ("nlmctl locks", "locks-freed.txt"),
            ]),
        ),
    ];
    for (path, picture) in pictures {
        let file = top().join(path);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, &picture).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap_or_default(), picture, "{path}: BLESS=1 draws it anew");
    }
}
