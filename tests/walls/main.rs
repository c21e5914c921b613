//! The walls of the house, read from the sources themselves:
//!
//! 1. A folder of `src/` names those folders and files that its row in CONTRIBUTING's table gives it, each
//!    of them and no other. The table is the allow-list: to move a wall, change the table.
//! 2. The pure folders know no clock, no socket, no task.
//! 3. In each folder no files or folders name each other in a circle.
//! 4. The examples use the modules that docs/embedding.md promises to embedders, and no other.
//!
//! A complaint has file and line. Test code may name whatever it wants.
#![cfg(test)]

mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use house::{House, Source, cycles};

/// Words that a pure folder never says, and why.
const IMPURE: &[(&[&str], &str)] = &[
    (&["tokio", "async", "await"], "pure folders never wait: events and `now` go in, values come out"),
    (
        &[
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
        "pure folders know no sockets",
    ),
    (&["rusqlite"], "pure folders know no database"),
    (&["Instant", "SystemTime", "Timestamp::now", "Zoned::now"], "pure folders know no clock: `now` is an argument"),
    (&["rand", "getrandom", "Uuid::new_v4"], "pure folders know no global randomness: a seed is an argument"),
];
const PURE: &[&str] = &["wire", "shares", "units", "locks", "resync", "report"];

static HOUSE: LazyLock<House> = LazyLock::new(House::standing);

/// What each folder may name: the code words of the second and third column of the table.
fn allow_list(contributing: &str) -> BTreeMap<String, BTreeSet<String>> {
    let code_words = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(|word| word.trim_end_matches('/').trim_end_matches(".rs").to_owned())
            .collect()
    };
    let table = contributing.lines().skip_while(|line| !line.starts_with("| folder | job | may use |")).skip(2);
    table
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            let folder = code_words(cells[1]).pop()?;
            Some((folder, code_words(cells[3]).into_iter().collect()))
        })
        .collect()
}

/// What stands against the allow-list: names that it does not have, and what it has in vain.
fn trespasses(house: &House, allowed: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut unused: BTreeSet<(&String, &String)> =
        allowed.iter().flat_map(|(folder, known)| known.iter().map(move |one| (folder, one))).collect();
    let mut complaints = BTreeSet::new();
    let mut told = BTreeSet::new();
    for folder in house.sources.keys().filter_map(|module| module.first()) {
        if !allowed.contains_key(folder) {
            complaints.insert(format!("src/{folder}: has no row in CONTRIBUTING's table"));
        }
    }
    for (from, to, source, line) in house.uses() {
        let (Some(folder), Some(other)) = (from.first(), to.first()) else { continue };
        if folder == other {
            continue;
        }
        let place = to.join("/");
        let rules = allowed.get(folder).into_iter().flatten();
        match rules.clone().find(|rule| place == **rule || place.starts_with(&format!("{rule}/"))) {
            Some(rule) => {
                unused.retain(|(unused_folder, unused_rule)| (*unused_folder, *unused_rule) != (folder, rule));
            }
            None if !told.insert((from, to.clone())) => {}
            None => {
                complaints.insert(format!("src/{}:{line}: `{folder}` may not know `{place}`", source.file));
            }
        }
    }
    complaints.extend(
        unused.into_iter().map(|(folder, rule)| format!("CONTRIBUTING.md: `{folder}` may use `{rule}`, and does not")),
    );
    complaints.into_iter().collect()
}

fn says(source: &Source, wanted: &str) -> Vec<usize> {
    let wanted: Vec<&str> = wanted.split("::").collect();
    let is_it = |said: &&[(String, usize, bool)]| {
        said.iter().zip(&wanted).enumerate().all(|(n, ((word, _, joined), want))| word == want && (n == 0 || *joined))
    };
    source.words.windows(wanted.len()).filter(is_it).map(|said| said[0].1).collect()
}

fn impurities(house: &House) -> Vec<String> {
    let pure = |(module, _): &(&Vec<String>, &Source)| module.first().is_some_and(|top| PURE.contains(&top.as_str()));
    let mut complaints = Vec::new();
    for (_, source) in house.sources.iter().filter(pure) {
        for (words, why) in IMPURE {
            for word in *words {
                let lines = says(source, word).into_iter();
                complaints.extend(lines.map(|line| format!("src/{}:{line}: `{word}` ({why})", source.file)));
            }
        }
    }
    complaints
}

/// The circles in each folder.
fn circles(house: &House) -> Vec<String> {
    let neighbours = house.neighbours();
    let found =
        neighbours.iter().flat_map(|(folder, edges)| cycles(edges).into_iter().map(move |circle| (folder, circle)));
    found.map(|(folder, circle)| format!("src/{folder}: {circle}")).collect()
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_folder_knows_what_contributing_gives_it_and_nothing_else() {
    let contributing = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    none(&trespasses(&HOUSE, &allow_list(&fs::read_to_string(contributing).unwrap())));
}

#[test]
fn the_pure_folders_know_no_clock_no_socket_and_no_task() {
    for folder in PURE {
        assert!(
            HOUSE.sources.keys().any(|module| module.first().is_some_and(|top| top == folder)),
            "src/{folder}: moved?"
        );
    }
    none(&impurities(&HOUSE));
}

#[test]
fn the_examples_use_what_is_promised_to_embedders_and_each_promise_has_a_user() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/embedding.md")).unwrap();
    let promised: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut unused = promised.clone();
    let examples = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let files = examples.filter(|path| path.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    for file in files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
    {
        let source = fs::read_to_string(&file).unwrap();
        for rest in source.split("nlmctl::").skip(1) {
            let is_of = |promise: &&&str| {
                rest.strip_prefix(**promise).is_some_and(|rest| rest.starts_with("::") || rest.starts_with(';'))
            };
            let found = promised.iter().find(is_of);
            let used = rest.lines().next().unwrap_or_default();
            unused.remove(found.unwrap_or_else(|| panic!("{}: nlmctl::{used} is not promised", file.display())));
        }
    }
    assert!(!promised.is_empty() && unused.is_empty(), "promised, and no example uses it: {unused:?}");
}

#[test]
fn no_files_of_a_folder_name_each_other_in_a_circle() {
    none(&circles(&HOUSE));
}

const TABLE: &str = "\
| folder | job | may use |
|---|---|---|
| `low/` | knows of `nothing` | nothing |
| `high/` | job | `low`, `side/door.rs` |
| `side/` | job | nothing |

`low` is pure.
";

fn trespasses_of(files: &[(&str, &str)]) -> Vec<String> {
    trespasses(&House::new(files.iter().copied()), &allow_list(TABLE))
}

#[test]
fn the_table_of_contributing_is_the_allow_list() {
    let rows = allow_list(TABLE);
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["high", "low", "side"]);
    assert_eq!(rows["high"].iter().collect::<Vec<_>>(), ["low", "side/door"]);
    assert!(rows["low"].is_empty() && rows["side"].is_empty());
}

#[test]
fn a_name_that_the_table_does_not_give_is_found_in_every_way_to_write_it() {
    let low = ("low/mod.rs", "pub struct Low;");
    let side = ("side/mod.rs", "pub mod door;\npub mod room;\npub use door::Key;");
    let (door, room) = (("side/door.rs", "pub struct Key;"), ("side/room.rs", "pub struct Bed;"));
    let fine = "use crate::{low::Low, side::Key};\n// crate::side::room\n\
                #[cfg(test)]\nmod tests { use crate::side::room::Bed; }";
    assert_eq!(trespasses_of(&[low, side, door, room, ("high/mod.rs", fine)]), [""; 0]);
    let ways = [
        "use crate::side::room::Bed;",
        "use crate::{\n    low::{self, Low},\n    side::{door::Key, room::Bed as Cot},\n};",
        "use super::side::room;",
        "fn f() -> usize {\n    size_of::<crate::side::room::Bed>()\n}",
        "use crate::side;\nfn f(_: side::room::Bed) {}",
        "pub(in crate::high) use crate::side::room::*;",
        "fn f() {\n    println!(\"{:?}\", crate::side::room::Bed);\n}",
    ];
    for way in ways {
        let high = format!("use crate::low::Low; use crate::side::Key;\n{way}");
        let complaints = trespasses_of(&[low, side, door, room, ("high/mod.rs", &high)]);
        let line = high.lines().position(|line| line.contains("room")).unwrap() + 1;
        assert!(
            complaints.contains(&format!("src/high/mod.rs:{line}: `high` may not know `side/room`")),
            "{way}: {complaints:?}"
        );
    }
}

#[test]
fn a_row_that_is_missing_and_one_that_gives_too_much_are_found() {
    let complaints = trespasses_of(&[("low/mod.rs", ""), ("attic/mod.rs", "use crate::low;")]);
    assert_eq!(
        complaints,
        [
            "CONTRIBUTING.md: `high` may use `low`, and does not",
            "CONTRIBUTING.md: `high` may use `side/door`, and does not",
            "src/attic/mod.rs:1: `attic` may not know `low`",
            "src/attic: has no row in CONTRIBUTING's table",
        ]
    );
}

#[test]
fn an_impure_word_is_found_on_its_line_and_a_longer_name_or_a_comment_is_none() {
    let source = "use std::time::{Duration, Instant};\n/// No Instant here.\nstruct InstantNoodles;\n\
                  fn f() { let x = tokio::spawn(g); let y = Zoned::new(); Zoned::now(); }\n";
    let house = House::new([("locks/a.rs", source), ("rpc/a.rs", source)]);
    let complaints = impurities(&house);
    let found: Vec<_> = complaints.iter().map(|complaint| complaint.split(" (").next().unwrap()).collect();
    assert_eq!(found, ["src/locks/a.rs:4: `tokio`", "src/locks/a.rs:1: `Instant`", "src/locks/a.rs:4: `Zoned::now`"]);
}

#[test]
fn two_files_that_name_each_other_are_a_circle() {
    let house = House::new([
        ("x/mod.rs", "mod a; mod b; mod c;\npub use a::A;"),
        ("x/a.rs", "use super::b::B;\npub struct A(B);"),
        ("x/b.rs", "\nuse super::a::A;\npub struct B;"),
        ("x/c.rs", "use super::{A, b::B};"),
    ]);
    assert_eq!(circles(&house), ["src/x: a -> b (src/x/a.rs:1), b -> a (src/x/b.rs:2)"]);
}

#[test]
fn three_files_that_name_each_other_through_what_is_handed_on_are_a_circle() {
    let house = House::new([
        ("x.rs", "mod a; mod b; mod deep;\npub use self::{a::*, b::B as Bee};\npub use deep::D;"),
        ("x/a.rs", "use super::Bee;\npub struct A;"),
        ("x/b.rs", "pub fn b() { super::D::new(); }\npub struct B;"),
        ("x/deep/mod.rs", "mod d;\npub use d::D;"),
        ("x/deep/d.rs", "use crate::x::A;\npub struct D;"),
    ]);
    assert_eq!(
        circles(&house),
        ["src/x: a -> b (src/x/a.rs:1), b -> deep (src/x/b.rs:1), deep -> a (src/x/deep/d.rs:1)"]
    );
}

#[test]
fn what_a_module_file_defines_or_uses_makes_it_a_part_of_a_circle() {
    let child = ("x/a.rs", "use super::Shared;\npub fn f(_: Shared) {}");
    for uses in ["fn g() { a::f(Shared); }", "use a::f;", "pub use a::f;\nfn g() { f(Shared); }"] {
        let house =
            House::new([("x/mod.rs", format!("mod a;\npub struct Shared;\n{uses}")), (child.0, child.1.to_owned())]);
        assert_eq!(circles(&house).len(), 1, "{uses}");
    }
    let hands_on = House::new([("x/mod.rs", "mod a;\npub struct Shared;\npub use a::f;"), child]);
    assert_eq!(circles(&hands_on), [""; 0]);
}
