//! `./x test`: builds what the tests start, then runs every test of the workspace.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::checkout;
use crate::image;
use crate::steps::Steps;
use crate::tools::{self, CARGO_NEXTEST};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leaves out the tests that need libvirt, QEMU and root
    #[arg(long)]
    unit: bool,
    /// Words for cargo nextest, for example a part of a test's name
    #[arg(last = true)]
    filters: Vec<String>,
}

/// Builds, checks the guest image, runs all tests, and shows the wall time of each suite.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    let mut nextest = checkout::cargo();
    nextest.args(["nextest", "run", "--workspace", "--features", checkout::FEATURES]);
    steps.run("test runner", "install cargo-nextest by hand", || tools::ensure(CARGO_NEXTEST).map(|_| ()));
    if args.unit {
        nextest.args([
            "-E",
            "not (package(berth-integration) or (package(berth-libvirt) or package(berth-lab)) and kind(test))",
        ]);
    } else {
        steps.run("guest image tiny", "the console above tells where the guest stopped", || {
            let tiny = image::ensure("tiny", false)?;
            nextest.env("BERTH_IMAGE_TINY", tiny.to_json());
            image::check("tiny")
        });
    }
    // The integration tests start the programs that lie beside them in the target folder. All targets at once, so that
    // dependencies have the same features for programs and tests and are built once.
    steps.run("build programs and tests", "mend the errors above", || {
        checkout::run(checkout::cargo().args([
            "build",
            "--workspace",
            "--features",
            checkout::FEATURES,
            "--all-targets",
        ]))
    });
    steps.run("doc tests", "mend the examples above", || {
        checkout::run(checkout::cargo().args([
            "test",
            "--workspace",
            "--features",
            checkout::FEATURES,
            "--doc",
            "--quiet",
        ]))
    });
    // nextest keeps its reports below the checkout's target folder, wherever cargo's is.
    let report = checkout::root().join("target/nextest/default/junit.xml");
    let _ = std::fs::remove_file(&report);
    steps.run("tests", "each failure above has its output; run one alone by ./x test -- NAME", || {
        checkout::run(nextest.args(&args.filters))
    });
    let outcome = steps.finish("test");
    if let Ok(text) = std::fs::read_to_string(&report) {
        eprint!("\n{}", suites_table(&suites(&text)?));
    }
    outcome
}

/// One test binary's run.
#[derive(Debug, PartialEq)]
struct Suite {
    name: String,
    tests: usize,
    /// From the start of its first test to the end of its last.
    wall: Duration,
}

/// The suites of a JUnit report, the longest first.
fn suites(report: &str) -> Result<Vec<Suite>> {
    let document = roxmltree::Document::parse(report).context("the test runner's report is not XML")?;
    let mut suites = Vec::new();
    for suite in document.descendants().filter(|node| node.has_tag_name("testsuite")) {
        let mut first = f64::INFINITY;
        let mut last = f64::NEG_INFINITY;
        let mut tests = 0;
        for case in suite.children().filter(|node| node.has_tag_name("testcase")) {
            let start = case.attribute("timestamp").and_then(seconds_of_day);
            let time = case.attribute("time").and_then(|time| time.parse::<f64>().ok());
            if let (Some(start), Some(time)) = (start, time) {
                first = first.min(start);
                last = last.max(start + time);
            }
            tests += 1;
        }
        let wall = Duration::try_from_secs_f64(last - first).unwrap_or_default();
        suites.push(Suite { name: suite.attribute("name").unwrap_or("?").to_owned(), tests, wall });
    }
    suites.sort_by_key(|suite| std::cmp::Reverse(suite.wall));
    Ok(suites)
}

/// Seconds since midnight of `2026-01-31T12:34:56.789+00:00`.
fn seconds_of_day(timestamp: &str) -> Option<f64> {
    let time = timestamp.split_once('T')?.1.split(['+', '-', 'Z']).next()?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

fn suites_table(suites: &[Suite]) -> String {
    let mut text = "wall time of each suite (they run side by side)\n".to_owned();
    for suite in suites {
        let _ = writeln!(text, "  {:>7.1} s  {:>4} tests  {}", suite.wall.as_secs_f64(), suite.tests, suite.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_lasts_from_its_first_start_to_its_last_end() {
        let report = r#"<testsuites name="nextest-run"><testsuite name="quick" tests="1">
              <testcase name="a" timestamp="2026-01-31T12:00:00.000+00:00" time="0.250"/></testsuite>
            <testsuite name="slow" tests="2">
              <testcase name="b" timestamp="2026-01-31T12:00:00.500+00:00" time="1.000"/>
              <testcase name="c" timestamp="2026-01-31T12:00:02.000+00:00" time="2.000"/></testsuite></testsuites>"#;
        let suites = suites(report).unwrap();
        assert_eq!(suites[0], Suite { name: "slow".to_owned(), tests: 2, wall: Duration::from_millis(3500) });
        assert_eq!(suites[1].wall, Duration::from_millis(250));
    }
}
