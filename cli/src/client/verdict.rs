//! What an attempt's failure means: final, or worth another controller; and what is said when the time is over.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_pki::Problem;
use berth_proto::status::{Carried, from_status};
use tonic::{Code, Status};

use crate::exit::ExitStatus;
use crate::failure::{self, Failure};

/// Why one attempt had no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// No connection was made, so nothing was sent.
    Connection(Problem),
    /// The controller answered with an error, or the connection broke on the way.
    Status(Carried, Option<Problem>),
    /// There was no answer in the time of one attempt.
    TooLate,
}

impl Trouble {
    /// From what tonic gives.
    pub(crate) fn of_status(status: &Status) -> Self {
        Self::Status(from_status(status), berth_pki::explain(status))
    }

    /// A stream that ended without a last word.
    pub(crate) fn closed() -> Self {
        Self::said("the stream ended without a last word".into())
    }

    /// A controller or host that says it goes away.
    pub(crate) fn said(message: String) -> Self {
        Self::Status(Carried { grpc: Code::Unavailable, code: None, message, hint: None }, None)
    }

    /// In a line.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Connection(problem) => problem.to_string(),
            Self::TooLate => "no answer in time".into(),
            Self::Status(carried, problem) => match (&carried.code, problem) {
                (Some(code), _) => format!("{} ({code})", carried.message),
                (None, Some(problem)) => problem.to_string(),
                (None, None) if carried.message.is_empty() => format!("{:?}", carried.grpc),
                (None, None) => carried.message.clone(),
            },
        }
    }
}

/// What is asked, as far as it matters when the answer stays out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing changes.
    Read,
    /// Something changes.
    Write {
        /// Sent with every attempt.
        request_id: String,
        /// The command that shows whether it was carried out.
        check: String,
    },
    /// Something changes, and the same sent again changes nothing more, so that it needs no id.
    Repeatable {
        /// The command that shows whether it was carried out.
        check: String,
    },
}

/// What follows from a trouble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// No controller will answer otherwise.
    Final(Failure),
    /// Another one, or the same later, may.
    Elsewhere {
        /// Whether the request may have been carried out all the same.
        may_have_arrived: bool,
    },
}

/// Judges the trouble with one controller.
pub(crate) fn judge(endpoint: &str, trouble: &Trouble) -> Verdict {
    match trouble {
        Trouble::TooLate => Verdict::Elsewhere { may_have_arrived: true },
        Trouble::Connection(problem) | Trouble::Status(_, Some(problem)) if problem.is_ours() => {
            Verdict::Final(Failure::problem(endpoint, problem))
        }
        Trouble::Connection(_) => Verdict::Elsewhere { may_have_arrived: false },
        Trouble::Status(carried, _) => match (carried.code.as_deref(), carried.grpc) {
            // No leader, or a store that failed: said before anything was proposed.
            (Some("BE-5001" | "BE-5003" | "BE-5031"), _) => Verdict::Elsewhere { may_have_arrived: false },
            // The controller itself does not know, or ran out of time: the same id will tell.
            (Some("BE-5002" | "BE-5004"), _) => Verdict::Elsewhere { may_have_arrived: true },
            // Made by the transport, not by Berth: the connection broke, or a controller is going down.
            (None, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal) => {
                Verdict::Elsewhere { may_have_arrived: true }
            }
            (Some(_) | None, _) => Verdict::Final(Failure::carried(carried.clone())),
        },
    }
}

/// What was tried, for the last word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct History {
    troubles: BTreeMap<String, Trouble>,
    may_have_arrived: bool,
}

impl History {
    /// Keeps the last trouble of each controller.
    pub(super) fn note(&mut self, endpoint: &str, trouble: &Trouble, may_have_arrived: bool) {
        self.troubles.insert(endpoint.to_owned(), trouble.clone());
        self.may_have_arrived |= may_have_arrived;
    }

    /// Notes an attempt that the end of the time cut short: what the controller said before tells more than that.
    pub(super) fn note_cut_short(&mut self, endpoint: &str, may_have_arrived: bool) {
        self.troubles.entry(endpoint.to_owned()).or_insert(Trouble::TooLate);
        self.may_have_arrived |= may_have_arrived;
    }

    /// What a person is told meanwhile.
    pub(super) fn so_far(&self, left: Duration) -> String {
        let troubles: Vec<_> =
            self.troubles.iter().map(|(endpoint, trouble)| format!("{endpoint}: {}", trouble.in_words())).collect();
        format!("no answer yet, trying for {} s more ({})", left.as_secs(), troubles.join("; "))
    }

    /// Whether every controller that was tried showed a certificate that we do not accept.
    pub(super) fn is_matter_of_trust(&self) -> bool {
        let untrusted = |trouble: &Trouble| match trouble {
            Trouble::Connection(problem) => failure::code_of(problem) == "BE-4002",
            Trouble::Status(..) | Trouble::TooLate => false,
        };
        !self.troubles.is_empty() && self.troubles.values().all(untrusted)
    }

    /// The failure to end with after `tried_for`.
    pub(super) fn give_up(self, effect: &Effect, tried_for: Duration) -> Failure {
        let span = format!("{} s", tried_for.as_secs_f32());
        let mut failure = match effect {
            Effect::Write { request_id, check } if self.may_have_arrived => Failure::new(
                ExitStatus::OutcomeUnknown,
                format!("the request was sent and no controller confirmed it within {span}; it may or may not have been carried out"),
            )
            .code("BE-5002")
            .hint(format!(
                "look with '{check}', or send the same again with --request-id {request_id}: it is carried out once at most"
            )),
            Effect::Repeatable { check } if self.may_have_arrived => Failure::new(
                ExitStatus::OutcomeUnknown,
                format!("the request was sent and no controller confirmed it within {span}; it may or may not have been carried out"),
            )
            .code("BE-5002")
            .hint(format!("look with '{check}', or repeat the command: what is done already is not done twice")),
            Effect::Write { .. } | Effect::Repeatable { .. } | Effect::Read => {
                let code = self.common_code();
                let what = match code {
                    "BE-5001" => format!("the cluster has no leader at present; tried for {span}"),
                    "BE-4002" => "none of the controllers is trusted".to_owned(),
                    _ => format!("no controller answered within {span}"),
                };
                let failure = Failure::new(failure::status_of(code), what).code(code);
                match code {
                    "BE-5001" => failure.hint("a majority of the controllers must run; see 'berth cluster status', or read with --stale"),
                    "BE-4002" => failure.hint("check that `ca` in the configuration is this cluster's"),
                    _ => failure.hint("check that the controllers run and that the endpoints in the configuration are theirs"),
                }
            }
        };
        for (endpoint, trouble) in &self.troubles {
            failure = failure.note(format!("{endpoint}: {}", trouble.in_words()));
        }
        failure
    }

    /// The most telling code: no leader if one controller says so, a matter of trust if it is one everywhere.
    fn common_code(&self) -> &'static str {
        let says = |wanted: &str| {
            self.troubles.values().any(|trouble| match trouble {
                Trouble::Status(carried, _) => carried.code.as_deref() == Some(wanted),
                Trouble::Connection(_) | Trouble::TooLate => false,
            })
        };
        if says("BE-5001") {
            "BE-5001"
        } else if says("BE-5003") {
            "BE-5003"
        } else if self.is_matter_of_trust() {
            "BE-4002"
        } else {
            "BE-5008"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_said_outlives_an_attempt_that_the_end_of_the_time_cut_short() {
        let full =
            Carried { grpc: Code::Unavailable, code: Some("BE-5003".into()), message: "no room".into(), hint: None };
        let mut history = History::default();
        history.note("c1:7440", &Trouble::Status(full, None), false);
        history.note_cut_short("c1:7440", true);
        history.note_cut_short("c2:7440", true);
        let failure = history.clone().give_up(&Effect::Read, Duration::from_secs(5));
        assert_eq!((failure.status(), failure.code_text()), (ExitStatus::Unavailable, Some("BE-5003")));
        let text = failure.render(false);
        assert!(text.contains("c1:7440: no room (BE-5003)") && text.contains("c2:7440: no answer in time"), "{text}");
        let write = Effect::Repeatable { check: "berth member list".into() };
        assert_eq!(history.give_up(&write, Duration::from_secs(5)).code_text(), Some("BE-5002"), "it may have arrived");
    }

    #[test]
    fn a_change_that_may_be_repeated_is_unknown_only_if_it_may_have_arrived() {
        let effect = Effect::Repeatable { check: "berth cluster member list".into() };
        let mut history = History::default();
        history.note("c1:7440", &Trouble::Connection(Problem::Refused), false);
        assert_eq!(history.clone().give_up(&effect, Duration::from_secs(1)).status(), ExitStatus::Unavailable);
        history.note("c2:7440", &Trouble::TooLate, true);
        let failure = history.give_up(&effect, Duration::from_secs(1));
        assert_eq!((failure.status(), failure.code_text()), (ExitStatus::OutcomeUnknown, Some("BE-5002")));
        assert!(failure.render(false).contains("look with 'berth cluster member list', or repeat the command"));
    }
}
