//! Spans of time as people write them: `30s`, `2m`, `500ms`, or plain seconds.

use std::time::Duration;

/// Reads a span; zero is refused, because no command can be done in no time.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a span of time; write a whole number and a unit: 500ms, 30s, 5m, 1h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    let millis = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(refuse)?;
    if millis == 0 {
        Err("a span of zero leaves no time to do anything".into())
    } else {
        Ok(Duration::from_millis(millis))
    }
}

/// How long ago something was, in its largest unit: `5s`, `3m`, `4h`, `12d`.
pub(crate) fn age(span: berth_model::Millis) -> String {
    let seconds = span.0 / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::Millis;

    #[test]
    fn spans_are_read_with_their_unit_and_nonsense_is_refused() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Ok(Duration::from_mins(5)));
        for bad in ["", "s", "-1s", "5 parsecs", "0s", "99999999999999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_use_the_unit_in_which_they_are_small_numbers() {
        let text: Vec<_> = [900, 119_000, 120_000, 7_200_000, 400_000_000].map(|millis| age(Millis(millis))).into();
        assert_eq!(text, ["0s", "119s", "2m", "2h", "4d"]);
    }
}
