//! Figures: medians with their spread, tables for people, and one line of JSON for each metric.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// Which way a metric should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metric {
    bench: &'static str,
    #[serde(rename = "metric")]
    name: String,
    value: f64,
    unit: &'static str,
    better: Better,
}

/// Several measurements of the same thing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Series {
    /// The one in the middle; of two, their mean.
    pub(crate) fn median(&self) -> f64 {
        match self.0.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => self.0[length / 2],
            length => f64::midpoint(self.0[length / 2 - 1], self.0[length / 2]),
        }
    }

    /// The one that this share of all do not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a list"
        )]
        let place = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(place.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }
}

/// Median, then least and most in brackets; with as many decimals as asked.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:.decimals$} [{:.decimals$} .. {:.decimals$}]", self.median(), self.min(), self.max())
    }
}

/// Where results go: progress and tables to people on standard error, metrics to standard output.
pub(crate) struct Report {
    bench: &'static str,
    started: Instant,
    json: bool,
    metrics: Vec<Metric>,
}

impl Report {
    /// Of the bench of this name.
    pub(crate) fn of(bench: &'static str, json: bool) -> Self {
        Self { bench, started: Instant::now(), json, metrics: Vec::new() }
    }

    /// Says what is going on.
    #[expect(clippy::print_stderr, reason = "progress for whoever waits")]
    pub(crate) fn say(&self, text: impl fmt::Display) {
        eprintln!("[{:>5.0} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Notes a result.
    pub(crate) fn metric(&mut self, name: impl Into<String>, value: f64, unit: &'static str, better: Better) {
        // Three digits behind the point say more than any of these measurements knows.
        let value = (value * 1000.0).round() / 1000.0;
        self.metrics.push(Metric { bench: self.bench, name: name.into(), value, unit, better });
    }

    /// Prints all results: lines of JSON if they were asked for, else a table.
    #[expect(clippy::print_stdout, reason = "the program's result")]
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        for metric in &self.metrics {
            if self.json {
                println!("{}", serde_json::to_string(metric)?);
            } else {
                println!("{:<46} {:>12} {}", metric.name, metric.value, metric.unit);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_shows_its_median_and_its_spread() {
        let odd: Series = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(format!("{odd:.1}"), "2.0 [1.0 .. 3.0]");
        let even: Series = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert!((even.median() - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn of_a_hundred_ninety_nine_do_not_exceed_the_99th_percentile() {
        let series: Series = (1..=100).map(f64::from).collect();
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|share| series.quantile(share).to_string());
        assert_eq!(quantiles, ["1", "50", "99", "100"]);
        assert!(Series::default().quantile(0.5).is_nan());
    }

    #[test]
    fn a_metric_is_one_line_of_the_agreed_form() {
        let mut report = Report::of("raft", true);
        report.metric("writes_per_s_ratio_vs_etcd_clients_64", 1.70004, "ratio", Better::Higher);
        assert_eq!(
            serde_json::to_string(&report.metrics[0]).unwrap(),
            r#"{"bench":"raft","metric":"writes_per_s_ratio_vs_etcd_clients_64","value":1.7,"unit":"ratio","better":"higher"}"#
        );
    }
}
