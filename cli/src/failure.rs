//! What the person reads when something fails: what, why, what to do next, and the code of the page about it.

use std::fmt;
use std::fmt::Write as _;
use std::io;

use berth_pki::Problem;
use berth_proto::status::Carried;

use crate::exit::ExitStatus;

/// A failure of the whole command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    status: ExitStatus,
    code: Option<String>,
    what: String,
    notes: Vec<String>,
    hint: Option<String>,
    closed_pipe: bool,
}

impl Failure {
    /// A failure that ends with `status`.
    pub(crate) fn new(status: ExitStatus, what: impl Into<String>) -> Self {
        Self { status, code: None, what: what.into(), notes: Vec::new(), hint: None, closed_pipe: false }
    }

    /// Something was refused or failed.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::new(ExitStatus::Refused, what)
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, what)
    }

    /// With the code of a page in `docs/errors`.
    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// As a denial with this code.
    pub(crate) fn denied(mut self, code: &str) -> Self {
        self.status = ExitStatus::Denied;
        self.code(code)
    }

    /// With what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a further line of why.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What a server refused, with its own code and hint.
    pub(crate) fn carried(carried: Carried) -> Self {
        let Carried { grpc, code, message, hint } = carried;
        let what = if message.is_empty() { format!("the server answered {grpc:?} without a message") } else { message };
        Self {
            status: code.as_deref().map_or(ExitStatus::Refused, status_of),
            code,
            what,
            notes: Vec::new(),
            hint,
            closed_pipe: false,
        }
    }

    /// A connection that was not made or did not last.
    pub(crate) fn problem(endpoint: &str, problem: &Problem) -> Self {
        let code = code_of(problem);
        Self::new(status_of(code), format!("cannot talk to {endpoint}: {problem}")).code(code)
    }

    /// How the program ends.
    pub(crate) const fn status(&self) -> ExitStatus {
        self.status
    }

    /// The code, if it has one.
    pub(crate) fn code_text(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Whether the reader of our output went away, which needs no words.
    pub(crate) const fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }

    /// The whole text, with or without colour.
    pub(crate) fn render(&self, colour: bool) -> String {
        let paint = |style: &str, text: &str| {
            if colour { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
        };
        let label = self.code.as_ref().map_or_else(|| "error".to_owned(), |code| format!("error[{code}]"));
        let mut text = format!("{} {}\n", paint("1;31", &format!("{label}:")), self.what);
        for note in &self.notes {
            let _ = writeln!(text, "  {}", note.replace('\n', "\n  "));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "{} {hint}", paint("1;36", "hint:"));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let mut failure = Self::refused(format!("input or output failed: {error}"));
        if error.kind() == io::ErrorKind::BrokenPipe {
            failure.status = ExitStatus::Ok;
            failure.closed_pipe = true;
        }
        failure
    }
}

/// How a command ends that got an error of this code.
pub(crate) fn status_of(code: &str) -> ExitStatus {
    match code {
        "BE-5002" => ExitStatus::OutcomeUnknown,
        "BE-5001" | "BE-5003" | "BE-5004" | "BE-5008" | "BE-5031" => ExitStatus::Unavailable,
        _ if code.starts_with("BE-4") => ExitStatus::Denied,
        _ => ExitStatus::Refused,
    }
}

/// The code of a connection's problem.
pub(crate) const fn code_of(problem: &Problem) -> &'static str {
    match problem {
        Problem::NoCertificate | Problem::CertificateExpired | Problem::CertificateInvalid(_) => "BE-4001",
        Problem::CertificateOfOtherCa
        | Problem::CertificateOfOtherCluster
        | Problem::ServerOfOtherCa
        | Problem::ServerIsOther(_)
        | Problem::ServerCertificate(_) => "BE-4002",
        Problem::RoleRefused => "BE-4003",
        Problem::Refused
        | Problem::TimedOut
        | Problem::Unreachable(_)
        | Problem::Closed
        | Problem::NotTls
        | Problem::Tls(_)
        | Problem::Io(_) => "BE-5008",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    fn carried(code: Option<&str>, message: &str, hint: Option<&str>) -> Carried {
        Carried {
            grpc: tonic::Code::InvalidArgument,
            code: code.map(Into::into),
            message: message.into(),
            hint: hint.map(Into::into),
        }
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do_next() {
        let failure = Failure::carried(carried(
            Some("BE-1002"),
            "unknown instance type \"standard-3\"",
            Some("known are standard-2, standard-4, standard-8; see 'berth instancetype list'"),
        ));
        assert_snapshot!(failure.render(false), @r#"
        error[BE-1002]: unknown instance type "standard-3"
        hint: known are standard-2, standard-4, standard-8; see 'berth instancetype list'
        "#);
    }

    #[test]
    fn notes_are_indented_below_the_error() {
        let failure = Failure::refused("nothing worked").note("first: no\nreally").note("second: no");
        assert_snapshot!(failure.render(false), @r"
        error: nothing worked
          first: no
          really
          second: no
        ");
    }

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        for (code, number) in [
            ("BE-1002", 1),
            ("BE-2001", 1),
            ("BE-3001", 1),
            ("BE-4001", 4),
            ("BE-4003", 4),
            ("BE-5001", 3),
            ("BE-5002", 5),
            ("BE-5003", 3),
            ("BE-5004", 3),
            ("BE-5007", 1),
            ("BE-5008", 3),
            ("BE-9001", 1),
        ] {
            assert_eq!(Failure::carried(carried(Some(code), "x", None)).status().number(), number, "{code}");
        }
        assert_eq!(Failure::carried(carried(None, "", None)).status().number(), 1);
        assert_eq!(ExitStatus::Usage.number(), 2);
        assert_eq!(ExitStatus::Interrupted.number(), 130);
    }

    #[test]
    fn certificates_that_are_missing_foreign_or_of_another_role_are_told_apart() {
        let text = |problem| {
            let failure = Failure::problem("c1:7440", &problem);
            assert_eq!(failure.status(), ExitStatus::Denied);
            failure.render(false)
        };
        assert_snapshot!(text(Problem::NoCertificate), @"error[BE-4001]: cannot talk to c1:7440: the server wants a client certificate and none was sent; give one with its key");
        assert_snapshot!(text(Problem::CertificateOfOtherCa), @"error[BE-4002]: cannot talk to c1:7440: the server does not know the CA that issued our certificate; use a certificate of this cluster");
        assert_snapshot!(text(Problem::RoleRefused), @"error[BE-4003]: cannot talk to c1:7440: the role in our certificate is not let in there; use a certificate of another role");
        assert_snapshot!(text(Problem::ServerOfOtherCa), @"error[BE-4002]: cannot talk to c1:7440: the server's certificate was issued by another CA; check the address, or that ca.pem is this cluster's");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_closed_pipe());
        assert_eq!(failure.status(), ExitStatus::Ok);
    }
}
