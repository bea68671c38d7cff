//! `./x verify`: everything that can be said about the code without running it. Never writes to the checkout.

use anyhow::Result;
use clap::ValueEnum;

use crate::checkout;
use crate::steps::Steps;
use crate::tidy;
use crate::tools::{self, CARGO_DENY, TYPOS};

/// Which checks to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these checks (default: all)
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Check>,
}

/// The checks in the order in which they run: the quick ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    Fmt,
    Tidy,
    Typos,
    Deny,
    Clippy,
    Rustdoc,
}

impl Check {
    fn remedy(self) -> &'static str {
        match self {
            Check::Fmt => "run ./x fix",
            Check::Tidy => "each finding above says what to do; ./x tidy shows them alone",
            Check::Typos => "run ./x fix, or add the word to typos.toml if it is right",
            Check::Deny => "choose another dependency, or add it to deny.toml with the reason",
            Check::Clippy => "run ./x fix; the rest by hand, or #[expect(…, reason = \"…\")] where the lint is wrong",
            Check::Rustdoc => "mend the links and code blocks named above",
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Check::Fmt => checkout::run(checkout::cargo().args(["fmt", "--all", "--check"])),
            Check::Tidy => tidy::run(),
            Check::Typos => checkout::run(&mut checkout::command(&tools::ensure(TYPOS)?.to_string_lossy())),
            // Advisories are left out: their database lives on GitHub, and a check must not depend on what was published today.
            Check::Deny => checkout::run(checkout::command(&tools::ensure(CARGO_DENY)?.to_string_lossy()).args([
                "--workspace",
                "--offline",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ])),
            Check::Clippy => checkout::run(checkout::cargo().args([
                "clippy",
                "--workspace",
                "--features",
                checkout::FEATURES,
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ])),
            Check::Rustdoc => checkout::run(
                checkout::cargo()
                    .args(["doc", "--workspace", "--no-deps", "--quiet"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            ),
        }
    }
}

/// Runs the checks one after another, all of them even if one fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    for check in Check::value_variants() {
        if args.only.is_empty() || args.only.contains(check) {
            let name = check.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            steps.run(&name, check.remedy(), || check.run());
        }
    }
    steps.finish("verify")
}
