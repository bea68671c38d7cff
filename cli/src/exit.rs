//! How the program ends; the numbers are a contract with scripts.

use std::process::ExitCode;

/// The exit codes, for `--help` and the man page.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    refused or failed; nothing more than the message says has changed
  2    wrong usage or configuration of this command
  3    the cluster is not available: no endpoint answers, or there is no leader
  4    denied: no certificate, one of another authority or cluster, or of a role that may not
  5    the outcome is unknown: the request may or may not have been carried out
  130  interrupted

Configuration is read from $BERTH_CONFIG or ~/.config/berth/config.yaml:
  current: lab
  clusters:
    - name: lab
      endpoints: [\"10.88.0.11:7440\", \"10.88.0.12:7440\"]
      ca: /path/ca.pem
      cert: /path/operator.pem
      key: /path/operator.key";

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitStatus {
    /// What was asked is done.
    Ok,
    /// It was refused or failed.
    Refused,
    /// The command line or the configuration is wrong.
    Usage,
    /// Nobody could be asked.
    Unavailable,
    /// The certificate does not permit it.
    Denied,
    /// It may or may not have been carried out.
    OutcomeUnknown,
    /// The person pressed Ctrl-C.
    Interrupted,
}

impl ExitStatus {
    /// The number that the shell sees.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Denied => 4,
            Self::OutcomeUnknown => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.number())
    }
}
