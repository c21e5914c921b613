//! Compares `control.x` with `control/`, so that they stay the same.

use super::control::{self, Grace, PROGRAM, Procedure, RefusalCode, VERSION};

const SPEC: &str = include_str!("control.x");

/// `RunClients` as `RUN_CLIENTS`.
fn shouted(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

/// The specification without comments, blanks made single.
fn bare() -> String {
    let mut text = String::new();
    let mut rest = SPEC;
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_procedure_stands_in_the_specification_by_name_and_number() {
    for &procedure in Procedure::ALL {
        let wanted = shouted(&format!("{procedure:?}"));
        let lines: Vec<_> = SPEC.lines().filter(|line| line.contains(&format!(" {wanted}("))).collect();
        let [line] = lines.as_slice() else { panic!("{wanted} stands in {} lines", lines.len()) };
        assert!(line.contains(&format!("= {};", procedure as u32)), "{line}");
        assert_eq!(line.contains("(read-only)"), procedure.is_read_only(), "{line}");
    }
    let last = u32::try_from(Procedure::ALL.len()).unwrap();
    assert!(!SPEC.contains(&format!("= {last};   /*")) && Procedure::from_number(last).is_none());
}

#[test]
fn program_version_and_bounds_are_the_same() {
    let bare = bare();
    assert!(bare.ends_with(&format!("}} = {VERSION}; }} = 0x{PROGRAM:X};")), "{bare}");
    assert!(bare.contains(&format!("NLMCTL_PAGE = {};", control::PAGE)));
    assert!(bare.contains(&format!("NLMCTL_MAX_REFS = {};", control::MAX_REFS)));
    assert!(bare.contains(&format!("NLMCTL_RELEASE = {};", control::RELEASE)));
    assert!(SPEC.contains(&format!("at\n * most {} MiB", control::MAX_RECORD >> 20)));
}

#[test]
fn every_refusal_and_grace_stands_there_with_its_number() {
    let bare = bare();
    let codes = [
        RefusalCode::RunActive,
        RefusalCode::GraceActive,
        RefusalCode::StalePlan,
        RefusalCode::UnknownRun,
        RefusalCode::WrongPhase,
        RefusalCode::StillPending,
        RefusalCode::BadRequest,
        RefusalCode::Unsupported,
        RefusalCode::NotDurable,
        RefusalCode::NotAllowed,
    ];
    for code in codes {
        assert!(bare.contains(&format!("{} = {}", shouted(&format!("{code:?}")), code as u32)), "{code:?}");
    }
    for grace in [Grace::Open, Grace::Recovery, Grace::Strict, Grace::Targeted, Grace::Settling] {
        assert!(bare.contains(&format!("{} = {}", shouted(&format!("{grace:?}")), grace as u32)), "{grace:?}");
    }
}

/// The fields of a struct in Rust and in XDR, in their order, by name. Two are named otherwise:
/// XDR has `state` for `nsm_state` and `can` for `capabilities`.
#[test]
fn every_struct_has_the_same_fields_in_the_same_order() {
    let source = concat!(
        include_str!("control/answer.rs"),
        include_str!("control/listing.rs"),
        include_str!("control/manager.rs"),
        include_str!("control/pages.rs"),
        include_str!("control/release.rs"),
        include_str!("control/result.rs"),
        include_str!("control/run.rs"),
        include_str!("control/watch.rs"),
    );
    let bare = bare();
    let mut compared = 0;
    for part in source.split("pub struct ").skip(1) {
        let Some((name, body)) = part.split_once(" {") else { continue };
        if !name.chars().all(char::is_alphanumeric) || name == "FullResult" {
            continue;
        }
        let Some((body, _)) = body.split_once("\n}") else { continue };
        let fields: Vec<String> = body
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':').map(|(field, _)| field.to_owned()))
            .map(|field| match field.as_str() {
                "nsm_state" => "state".to_owned(),
                "capabilities" => "can".to_owned(),
                _ => field,
            })
            .collect();
        let wanted = shouted(name).to_lowercase();
        let (_, spec) = bare.split_once(&format!("struct {wanted} {{")).unwrap_or_else(|| panic!("no struct {wanted}"));
        let (spec, _) = spec.split_once('}').unwrap();
        let specified: Vec<String> = spec
            .split(';')
            .filter(|field| !field.trim().is_empty())
            .map(|field| {
                let field = field.split('<').next().unwrap_or(field);
                field.rsplit([' ', '*']).next().unwrap_or(field).to_owned()
            })
            .collect();
        assert_eq!(specified, fields, "struct {wanted}");
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} structs were found");
}
