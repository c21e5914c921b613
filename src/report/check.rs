//! What stands in the way of a run, as findings: what was seen, how much it weighs, what to do.

use std::fmt::Write;

use serde::Serialize;

use super::SCHEMA;
use super::table::clean;
use super::text::{Render, View, line};
use super::words::words;
use crate::units::{self, number};

/// Items of a finding that the text names; the JSON has all.
const SHOWN: usize = 5;

/// What could prevent a run or make it unsafe, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// What could prevent a run or make it unsafe, and what was found in order.
    pub check: Check,
}

/// What was found before a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// What kind of lock manager was looked at.
    pub manager: String,
    /// The lock manager's endpoint, such as its control socket.
    pub endpoint: String,
    /// 0 no problem was found, 4 a run would be refused or unsafe, 5 no lock manager answers.
    pub exit: u8,
    /// What was seen, by topic.
    pub findings: Vec<Finding>,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// Its topic, a word: `mounts`, `rpcbind`, `clients`, ...
    pub about: String,
    /// How severe it is.
    pub severity: Severity,
    /// What was seen, a sentence.
    pub seen: String,
    /// What it is about, if there are several: clients, addresses, lines.
    pub items: Vec<String>,
    /// What to do about it; none if there is nothing to do.
    pub remedy: Option<String>,
}

words! {
    /// How severe a finding is.
    pub enum Severity {
        /// As it should be.
        Ok = "ok",
        /// Good to know; it does not prevent a run.
        Note = "note",
        /// A run is possible, but locks may be lost or kept, or a client may not be notified.
        Warning = "warning",
        /// A run would be refused, or would be unsafe.
        Problem = "problem",
    }
}

impl Finding {
    /// As it should be.
    pub fn ok(about: &str, seen: impl Into<String>) -> Self {
        Self { about: about.to_owned(), severity: Severity::Ok, seen: seen.into(), items: Vec::new(), remedy: None }
    }
    /// Anything else, with what to do about it.
    pub fn new(about: &str, severity: Severity, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, remedy: Some(remedy.into()), ..Self::ok(about, seen) }
    }
    /// With what it is about, one by one.
    #[must_use]
    pub fn of(self, items: impl IntoIterator<Item = impl ToString>) -> Self {
        Self { items: items.into_iter().map(|item| item.to_string()).collect(), ..self }
    }
}

impl CheckReport {
    /// `reached`: the lock manager answered.
    pub fn new(manager: &str, endpoint: &str, reached: bool, findings: Vec<Finding>) -> Self {
        let exit = match findings.iter().map(|finding| finding.severity).max() {
            _ if !reached => 5,
            Some(Severity::Problem) => 4,
            Some(Severity::Ok | Severity::Note | Severity::Warning) | None => 0,
        };
        let check = Check { manager: manager.to_owned(), endpoint: endpoint.to_owned(), exit, findings };
        Self { schema: SCHEMA, check }
    }
}

impl Render for CheckReport {
    fn show(&self, _: &View) -> String {
        let mut out = String::new();
        let check = &self.check;
        let of = |severity| check.findings.iter().filter(move |finding| finding.severity == severity);
        let count = |severity| of(severity).count() as u64;
        line!(
            out,
            "check of {} at {}: {}, {}, {}, {} ok (exit {})",
            clean(&check.manager),
            clean(&check.endpoint),
            number(count(Severity::Problem), "problem", "problems"),
            number(count(Severity::Warning), "warning", "warnings"),
            number(count(Severity::Note), "note", "notes"),
            count(Severity::Ok),
            check.exit
        );
        let width = check.findings.iter().map(|finding| finding.about.chars().count()).max().unwrap_or(0);
        for severity in Severity::ALL.into_iter().rev() {
            if count(severity) > 0 {
                out.push('\n');
            }
            for finding in of(severity) {
                line!(out, "{severity:7}  {:width$}  {}", clean(&finding.about), clean(&finding.seen));
                let blank = width + 11;
                if !finding.items.is_empty() {
                    let named = units::first(finding.items.iter().map(|item| clean(item)), SHOWN);
                    line!(out, "{:blank$}{named}", "");
                }
                if let Some(remedy) = &finding.remedy {
                    line!(out, "{:blank$}-> {}", "", clean(remedy));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_exit_4_a_manager_that_is_not_there_5_and_anything_less_0() {
        let finding = |severity| Finding::new("x", severity, "seen", "do");
        let exit = |reached, severities: &[Severity]| {
            CheckReport::new("m", "e", reached, severities.iter().copied().map(finding).collect()).check.exit
        };
        assert_eq!(exit(true, &[]), 0);
        assert_eq!(exit(true, &[Severity::Ok, Severity::Note, Severity::Warning]), 0);
        assert_eq!(exit(true, &[Severity::Problem, Severity::Ok]), 4);
        assert_eq!(exit(false, &[Severity::Problem]), 5);
        assert_eq!(exit(false, &[]), 5);
    }
}
