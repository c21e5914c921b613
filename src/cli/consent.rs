//! Consent to what cannot be undone.

use std::io::{BufRead, IsTerminal, Write};

use super::error::CliError;

/// Somebody consented, or nothing wanted consent. A destructive command takes one, and only this
/// file makes one. (A run also wants the plan's own [`Consent`](crate::resync::plan::Consent).)
#[derive(Debug)]
#[must_use]
pub struct Consent(());

/// Who can be asked.
trait Person {
    /// Whether there is anybody.
    fn is_there(&self) -> bool;
    /// Asks, and reads a line.
    fn ask(&mut self, question: &str) -> std::io::Result<String>;
}

struct Terminal;

impl Person for Terminal {
    fn is_there(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }
    fn ask(&mut self, question: &str) -> std::io::Result<String> {
        let mut stderr = std::io::stderr();
        stderr.write_all(question.as_bytes())?;
        stderr.flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}

impl Consent {
    /// Consent to `needs`, a sentence each: by `--yes`, by a person at the terminal, or because
    /// nothing needs any. Without a terminal and without `--yes` it is refused. Blocks while it asks.
    pub fn obtain(needs: &[String], yes: bool) -> Result<Self, CliError> {
        Self::from_person(needs, yes, &mut Terminal)
    }

    fn from_person(needs: &[String], yes: bool, person: &mut dyn Person) -> Result<Self, CliError> {
        if needs.is_empty() || yes {
            return Ok(Self(()));
        }
        if !person.is_there() {
            return Err(CliError::refused(
                format!("nobody consented to this: {}", needs.join("; ")),
                "add --yes, or run it on a terminal and answer",
            ));
        }
        let mut question = String::from("This wants your consent:\n");
        for need in needs {
            question.push_str("  - ");
            question.push_str(need);
            question.push('\n');
        }
        question.push_str("Go on? [y/N] ");
        let answer = person
            .ask(&question)
            .map_err(|e| CliError::refused(format!("could not ask for consent: {e}"), "add --yes"))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(Self(())),
            _ => Err(CliError::refused("consent was not given; nothing was changed", "answer y, or add --yes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        there: bool,
        answer: &'static str,
        asked: String,
    }

    impl Person for Fake {
        fn is_there(&self) -> bool {
            self.there
        }
        fn ask(&mut self, question: &str) -> std::io::Result<String> {
            self.asked = question.to_owned();
            Ok(self.answer.to_owned())
        }
    }

    fn ask(needs: &[&str], yes: bool, there: bool, answer: &'static str) -> (Result<Consent, CliError>, String) {
        let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
        let mut person = Fake { there, answer, asked: String::new() };
        let result = Consent::from_person(&needs, yes, &mut person);
        (result, person.asked)
    }

    #[test]
    fn nothing_is_asked_where_nothing_needs_consent_or_yes_was_given() {
        for (needs, yes) in [(&[][..], false), (&["drop"][..], true)] {
            let (result, asked) = ask(needs, yes, true, "n\n");
            assert!(result.is_ok());
            assert_eq!(asked, "");
        }
    }

    #[test]
    fn a_person_at_the_terminal_is_asked_and_only_y_or_yes_is_consent() {
        for (answer, ok) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n\n", false), ("yep\n", false)]
        {
            let (result, asked) = ask(&["drop the locks of 3 clients"], false, true, answer);
            assert_eq!(result.is_ok(), ok, "{answer:?}");
            assert!(asked.contains("  - drop the locks of 3 clients\n"), "{asked}");
        }
    }

    #[test]
    fn without_a_terminal_and_without_yes_it_is_refused_and_says_what_for() {
        let error = ask(&["drop the locks of 3 clients"], false, false, "").0.unwrap_err();
        assert_eq!(error.exit(), 4);
        assert!(error.to_string().contains("drop the locks of 3 clients"), "{error}");
        assert!(error.remedy().unwrap().contains("--yes"));
    }
}
