//! Decisions and error pages: documents that go by number.

use std::collections::BTreeSet;

use super::Finding;
use super::source::SourceFile;

/// Decisions are numbered from 0001 without gaps and without two of the same number.
pub(super) fn decisions(names: &[String]) -> Vec<Finding> {
    let finding = |what: String, fix: String| Finding {
        rule: "decisions",
        what,
        why: "code and people cite decisions by number; a gap looks like a decision that was taken back in silence",
        fix,
    };
    let mut findings = Vec::new();
    let mut numbers = Vec::new();
    for name in names.iter().filter(|name| name.strip_suffix(".md").is_some_and(|stem| stem != "README")) {
        match name.split_once('-').map(|(number, _)| number) {
            Some(number) if number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                numbers.push((number.parse::<usize>().unwrap_or_default(), name));
            }
            _ => findings.push(finding(
                format!("docs/decisions/{name} has no number"),
                "name it NNNN-what-was-decided.md".to_owned(),
            )),
        }
    }
    numbers.sort();
    let mut expected = 1;
    for (number, name) in numbers {
        if number != expected {
            findings.push(finding(
                format!("docs/decisions/{name} stands where {expected:04} was expected"),
                format!("renumber it to {expected:04}, or bring the missing one back as superseded"),
            ));
        }
        expected = number + 1;
    }
    findings
}

/// Each error code that the code uses has a page, and each page explains a code that is used.
pub(super) fn error_pages(sources: &[SourceFile], pages: &[String]) -> Vec<Finding> {
    let used: BTreeSet<&str> =
        sources.iter().filter(|file| !file.path.starts_with("xtask/")).flat_map(|file| codes(&file.text)).collect();
    let explained: BTreeSet<&str> = pages
        .iter()
        .filter_map(|page| page.strip_suffix(".md"))
        .filter(|page| codes(page).next() == Some(page))
        .collect();
    let without_page = used.difference(&explained).map(|code| Finding {
        rule: "error pages",
        what: format!("{code} has no page"),
        why: "an error's code is what people look up; it must lead somewhere",
        fix: format!("write docs/errors/{code}.md: what happened, why, what to do"),
    });
    let without_use = explained.difference(&used).map(|code| Finding {
        rule: "error pages",
        what: format!("docs/errors/{code}.md explains a code that nothing uses"),
        why: "a page for an error that cannot happen sends people the wrong way",
        fix: "remove the page, or use the code where it belongs".to_owned(),
    });
    without_page.chain(without_use).collect()
}

/// Every `BE-NNNN` in a text, four digits and no more.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("BE-").filter_map(|(at, _)| {
        let digits = text[at + 3..].bytes().take_while(u8::is_ascii_digit).count();
        let starts_a_word = !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
        (digits == 4 && starts_a_word).then(|| &text[at..at + 7])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn decisions_in_a_row_pass() {
        assert_eq!(decisions(&owned(&["0001-a.md", "0002-b.md", "README.md"])), []);
    }

    #[test]
    fn a_gap_a_double_and_a_nameless_decision_are_found() {
        assert_eq!(decisions(&owned(&["0001-a.md", "0003-c.md"])).len(), 1);
        assert_eq!(decisions(&owned(&["0001-a.md", "0001-b.md", "0002-c.md"])).len(), 1);
        assert_eq!(decisions(&owned(&["idea.md"])).len(), 1);
        assert_eq!(decisions(&owned(&["0002-b.md"])).len(), 1);
    }

    #[test]
    fn a_code_without_a_page_and_a_page_without_a_code_are_found() {
        let sources = [
            SourceFile {
                path: "controller/src/error.rs".to_owned(),
                text: "const A: &str = \"BE-0001\"; // BE-0002".to_owned(),
            },
            SourceFile { path: "xtask/src/example.rs".to_owned(), text: "BE-9999".to_owned() },
        ];
        let findings = error_pages(&sources, &owned(&["BE-0001.md", "BE-0003.md", "README.md"]));
        let found: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(found, ["BE-0002 has no page", "docs/errors/BE-0003.md explains a code that nothing uses"]);
    }

    #[test]
    fn only_four_digits_make_a_code() {
        assert_eq!(codes("BE-12 BE-12345 BE-1234 MAYBE-1234 BE-NNNN").collect::<Vec<_>>(), ["BE-1234"]);
    }
}
