//! The walls of the house: who may know whom. Read from the sources themselves, so that a change
//! which leans on the wrong neighbour fails with its file and line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A wall: in these folders of `src/`, none of these words.
struct Wall {
    folders: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        folders: &["wire", "locks", "resync", "report"],
        forbidden: &["tokio", "async", "await"],
        why: "pure folders never wait: events and `now` go in, values come out",
    },
    Wall {
        folders: &["wire", "locks", "resync", "report"],
        forbidden: &[
            "socket2",
            "quinn_udp",
            "nix",
            "UdpSocket",
            "TcpStream",
            "TcpListener",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
        ],
        why: "pure folders know no sockets",
    },
    Wall {
        folders: &["wire", "locks", "resync", "report"],
        forbidden: &["rusqlite"],
        why: "pure folders know no database",
    },
    Wall {
        folders: &["wire", "locks", "resync", "report"],
        forbidden: &["Instant", "SystemTime", "Timestamp::now", "Zoned::now"],
        why: "pure folders know no clock: `now` is an argument",
    },
    Wall {
        folders: &["wire", "locks", "resync", "report"],
        forbidden: &["rand", "getrandom", "Uuid::new_v4"],
        why: "pure folders know no global randomness: a seed is an argument",
    },
    Wall {
        folders: &["wire"],
        forbidden: &[
            "crate::locks",
            "crate::resync",
            "crate::report",
            "crate::rpc",
            "crate::nsm",
            "crate::lockd",
            "crate::manager",
            "crate::store",
            "crate::controller",
            "crate::demo",
            "crate::cli",
        ],
        why: "wire knows nothing above it",
    },
    Wall {
        folders: &["check"],
        forbidden: &["crate::locks", "crate::lockd", "crate::store", "crate::controller", "crate::demo", "crate::cli"],
        why: "check looks and keeps nothing: it sees manager, nsm, rpc and report",
    },
    Wall {
        folders: &["cli"],
        forbidden: &["crate::locks"],
        why: "cli never touches the lock table: it sees controller, manager, store and report",
    },
];

/// The line without its `//` comment.
fn code_of(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in the code on its own, not as a part of a longer name.
fn mentions(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The numbers of the lines of `source` that lean on what `wall` forbids.
fn breaches(source: &str, wall: &Wall) -> Vec<(usize, &'static str)> {
    source
        .lines()
        .enumerate()
        .flat_map(|(index, line)| {
            let code = code_of(line);
            wall.forbidden.iter().filter(move |word| mentions(code, word)).map(move |word| (index + 1, *word))
        })
        .collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A folder `x/` may also be a file `x.rs`.
fn sources_of(folder: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    rust_files(&src.join(folder), &mut found);
    let file = src.join(format!("{folder}.rs"));
    if file.is_file() {
        found.push(file);
    }
    found.sort();
    found
}

#[test]
fn every_folder_keeps_to_its_side_of_the_walls() {
    let mut complaint = String::new();
    for wall in WALLS {
        for folder in wall.folders {
            let sources = sources_of(folder);
            assert!(
                !sources.is_empty(),
                "src/{folder} has no sources: has it moved? then move its wall in tests/walls.rs"
            );
            for path in sources {
                let source = fs::read_to_string(&path).unwrap();
                for (line, word) in breaches(&source, wall) {
                    writeln!(complaint, "{}:{line}: `{word}` ({})", path.display(), wall.why).unwrap();
                }
            }
        }
    }
    assert!(complaint.is_empty(), "\n{complaint}");
}

#[test]
fn a_breach_is_found_on_its_line_and_a_longer_name_or_a_comment_is_none() {
    let clock = Wall { folders: &[], forbidden: &["Instant", "tokio"], why: "" };
    let source =
        "use std::time::{Duration, Instant};\n/// No Instant here.\nstruct InstantNoodles;\nlet x = tokio::spawn(f);\n";
    assert_eq!(breaches(source, &clock), [(1, "Instant"), (4, "tokio")]);
}
