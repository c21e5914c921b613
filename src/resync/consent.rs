//! Consent to what cannot be undone.

use std::io;

use crate::report::Failure;

/// Proof that the operator agreed to all that needs consent, or that nothing needs it. Only [`Consent::obtain`] makes
/// one; an action that cannot be undone consumes it.
#[derive(Debug)]
#[must_use]
pub struct Consent {
    to: String,
}

/// A person who can be asked.
pub trait Person {
    /// Whether an operator is at a terminal.
    fn is_there(&self) -> bool;
    /// Asks, and reads a line.
    fn ask(&mut self, question: &str) -> io::Result<String>;
}

/// No operator: a timer, a pipe.
impl Person for () {
    fn is_there(&self) -> bool {
        false
    }
    fn ask(&mut self, _: &str) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Consent {
    /// Consent to `needs`, a sentence each: by `--yes`, by a person, or because nothing needs any.
    /// Blocks while it asks. `to` is what it is for, as [`covers`](Self::covers) compares it.
    ///
    /// # Errors
    /// Refused, if consent was not given.
    pub fn obtain(to: &str, needs: &[String], yes: bool, person: &mut dyn Person) -> Result<Self, Failure> {
        let given = Self { to: to.to_owned() };
        if needs.is_empty() || yes {
            return Ok(given);
        }
        if !person.is_there() {
            return Err(Failure::refused(
                format!("this needs consent: {}", needs.join("; ")),
                "add --yes, or run the command on a terminal and answer",
            ));
        }
        let question =
            needs.iter().fold(String::from("This needs your consent:\n"), |text, need| text + "  - " + need + "\n");
        let answer = person
            .ask(&(question + "Continue? [y/N] "))
            .map_err(|e| Failure::refused(format!("could not ask for consent: {e}"), "add --yes"))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(given),
            _ => Err(Failure::refused("consent was not given; nothing was changed", "answer y, or add --yes")),
        }
    }

    /// Whether the consent is for `what`.
    pub fn covers(&self, what: &str) -> bool {
        self.to == what
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
        fn ask(&mut self, question: &str) -> io::Result<String> {
            self.asked = question.to_owned();
            Ok(self.answer.to_owned())
        }
    }

    fn ask(needs: &[&str], yes: bool, there: bool, answer: &'static str) -> (Result<Consent, Failure>, String) {
        let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
        let mut person = Fake { there, answer, asked: String::new() };
        let result = Consent::obtain("it", &needs, yes, &mut person);
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
        assert_eq!(error.kind.exit(), 4);
        assert!(error.to_string().contains("drop the locks of 3 clients"), "{error}");
        assert!(error.remedy.contains("--yes"));
    }
}
