//! Named steps with their wall time: what `verify` and `test` show while they run and when they are done.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One finished step.
#[derive(Debug)]
struct Step {
    /// What was done, in a word or two.
    name: String,
    /// How long it took.
    elapsed: Duration,
    /// What to do when it failed; `None` when it passed.
    remedy: Option<String>,
}

/// Steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Runs one step, says so before and after, and goes on when it fails: one run shows everything that is wrong.
    /// Returns whether it passed.
    pub(crate) fn run(&mut self, name: &str, remedy: &str, work: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("==> {name}");
        let started = Instant::now();
        let outcome = work();
        let elapsed = started.elapsed();
        if let Err(error) = &outcome {
            eprintln!("{error:#}");
        }
        eprintln!("    {name}: {} ({:.1} s)", if outcome.is_ok() { "ok" } else { "FAILED" }, elapsed.as_secs_f64());
        let passed = outcome.is_ok();
        self.done.push(Step { name: name.to_owned(), elapsed, remedy: (!passed).then(|| remedy.to_owned()) });
        passed
    }

    /// The closing table, and an error that names the failed steps if there are any.
    pub(crate) fn finish(&self, title: &str) -> Result<()> {
        eprint!("\n{}", table(title, &self.done));
        let failed: Vec<&str> =
            self.done.iter().filter(|step| step.remedy.is_some()).map(|step| step.name.as_str()).collect();
        if !failed.is_empty() {
            bail!("{title} failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

/// A line a step: verdict, seconds, name; and for the failed ones what to do.
fn table(title: &str, steps: &[Step]) -> String {
    let mut text = format!("{title}\n");
    let total: Duration = steps.iter().map(|step| step.elapsed).sum();
    for step in steps {
        let verdict = if step.remedy.is_some() { "FAILED" } else { "ok" };
        let _ = writeln!(text, "  {verdict:<6} {:>7.1} s  {}", step.elapsed.as_secs_f64(), step.name);
        if let Some(remedy) = &step.remedy {
            let _ = writeln!(text, "                      {remedy}");
        }
    }
    let _ = writeln!(text, "  {:<6} {:>7.1} s", "all", total.as_secs_f64());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_failed_step_and_what_to_do() {
        let steps = [
            Step { name: "format".to_owned(), elapsed: Duration::from_millis(1500), remedy: None },
            Step { name: "lints".to_owned(), elapsed: Duration::from_secs(61), remedy: Some("run ./x fix".to_owned()) },
        ];
        let text = table("verify", &steps);
        assert_eq!(
            text,
            "verify\n  ok         1.5 s  format\n  FAILED    61.0 s  lints\n                      run ./x fix\n  all       62.5 s\n"
        );
    }

    #[test]
    fn a_failed_step_does_not_keep_the_next_one_from_running() {
        let mut steps = Steps::default();
        assert!(!steps.run("first", "mend it", || bail!("broken")));
        assert!(steps.run("second", "", || Ok(())));
        let error = steps.finish("verify").unwrap_err();
        assert_eq!(error.to_string(), "verify failed: first");
    }
}
