//! Rules about Rust source: where `unsafe` may stand, and how long a file may get.

use super::Finding;

/// Folders whose crates talk to C libraries and to the kernel.
const UNSAFE_ALLOWED: &[&str] = &["hostd/libvirt/", "hostd/sys/"];

/// Lines of code, tests not counted, past which a file holds more than one idea.
const LONGEST: usize = 600;

/// A Rust file.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    /// Its path relative to the checkout.
    pub(super) path: String,
    /// Its text.
    pub(super) text: String,
}

/// `unsafe` stands only in the two crates that need it.
pub(super) fn no_unsafe(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !UNSAFE_ALLOWED.iter().any(|folder| file.path.starts_with(folder))) {
        let code = bare_code(&file.text);
        for (number, line) in code.lines().enumerate() {
            // A lint that is lifted counts like the code that it lets in.
            if words(line).any(|word| word == "unsafe" || word == "unsafe_code") {
                findings.push(Finding {
                    rule: "unsafe",
                    what: format!("{}:{} uses unsafe", file.path, number + 1),
                    why: "memory errors then have two crates to hide in instead of twenty",
                    fix: format!("move it behind a safe function of one of: {}", UNSAFE_ALLOWED.join(", ")),
                });
            }
        }
    }
    findings
}

/// No file has more code than one can keep in mind.
pub(super) fn length(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| !is_test_file(&file.path))
        .map(|file| (file, code_lines(&file.text)))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| Finding {
            rule: "length",
            what: format!("{} has {lines} lines of code without its tests", file.path),
            why: "past 600 lines a file holds more than one idea, and readers have to find out which",
            fix: "give the second idea a file of its own beside it".to_owned(),
        })
        .collect()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.split('/').any(|part| matches!(part, "tests" | "benches" | "generated"))
}

/// Lines that hold code: neither blank, nor comment, nor in a test module at the end.
fn code_lines(text: &str) -> usize {
    let code = bare_code(text);
    let mut count = 0;
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let opens_tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.trim_start().starts_with("mod ") && next.contains('{'));
        if opens_tests {
            break;
        }
        count += usize::from(!line.trim().is_empty());
    }
    count
}

/// The words of a line of code.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|character: char| !(character.is_alphanumeric() || character == '_')).filter(|word| !word.is_empty())
}

/// The text with the insides of comments, strings and characters blanked out, line breaks kept.
fn bare_code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = vec![b' '; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw_string(bytes, at) {
            at + length
        } else if rest[0] == b'"' {
            at + quoted(rest, b'"')
        } else if rest[0] == b'\'' {
            at + character(rest)
        } else {
            out[at] = bytes[at];
            at + 1
        };
        at = end.max(at + 1);
    }
    for (to, from) in out.iter_mut().zip(bytes) {
        if *from == b'\n' {
            *to = b'\n';
        }
    }
    // Bytes of code outside ASCII were copied one by one and in order, so the text is still UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of a block comment, nested ones included.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of `r"…"`, `r#"…"#`, `br#"…"#` and the like, if one begins here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let begins_a_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let rest = &bytes[at..];
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix.len() + hashes;
    if !begins_a_word || rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'#'; hashes + 1];
    close[0] = b'"';
    let inside = &rest[open + 1..];
    let length = inside
        .windows(close.len())
        .position(|window| window == close)
        .map_or(inside.len(), |found| found + close.len());
    Some(open + 1 + length)
}

/// Length of a quoted text with backslash escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character, or of the apostrophe alone when it begins a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', ..] => quoted(rest, b'\''),
        // One character, up to four bytes long, and the closing apostrophe.
        _ => rest
            .iter()
            .skip(2)
            .take(4)
            .position(|byte| *byte == b'\'')
            .filter(|offset| *offset == 0 || rest[1] >= 0x80)
            .map_or(1, |offset| offset + 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn unsafe_outside_the_two_crates_is_found_with_its_line() {
        let findings = no_unsafe(&[file("model/src/lib.rs", "fn f() {\n    unsafe { g() }\n}\n")]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.starts_with("model/src/lib.rs:2"), "{}", findings[0]);
    }

    #[test]
    fn lifting_the_lint_counts_as_unsafe() {
        assert_eq!(no_unsafe(&[file("raft/src/lib.rs", "#![expect(unsafe_code, reason = \"fast\")]\n")]).len(), 1);
    }

    #[test]
    fn unsafe_is_allowed_where_c_and_the_kernel_are_called() {
        assert_eq!(no_unsafe(&[file("hostd/sys/src/kvm.rs", "unsafe { ioctl() }")]), []);
        assert_eq!(no_unsafe(&[file("hostd/libvirt/src/ffi.rs", "unsafe { call() }")]), []);
    }

    #[test]
    fn the_word_in_comments_strings_and_longer_names_is_not_code() {
        let text = "// unsafe\n/* unsafe /* unsafe */ unsafe */\nlet a = \"unsafe \\\" unsafe\";\nlet b = r#\"unsafe \" unsafe\"#;\n\
                    let c = '\"'; let unsafely = b'\\''; fn f<'unsafe_life>() {}\n";
        assert_eq!(no_unsafe(&[file("model/src/lib.rs", text)]), []);
    }

    #[test]
    fn code_after_a_lifetime_or_a_wide_character_is_still_seen() {
        assert_eq!(no_unsafe(&[file("a.rs", "fn f<'a>(x: &'a str) { unsafe {} }")]).len(), 1);
        assert_eq!(no_unsafe(&[file("a.rs", "let x = 'é'; unsafe {}")]).len(), 1);
    }

    #[test]
    fn a_file_of_more_than_600_lines_of_code_is_found() {
        let findings = length(&[file("a/src/lib.rs", &"let x = 1;\n".repeat(601))]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("601 lines"), "{}", findings[0]);
        assert_eq!(length(&[file("a/src/lib.rs", &"let x = 1;\n".repeat(600))]), []);
    }

    #[test]
    fn comments_blank_lines_and_tests_do_not_make_a_file_long() {
        let text = format!(
            "{}{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// why\n\n".repeat(500),
            "code();\n".repeat(10),
            "test();\n".repeat(900)
        );
        assert_eq!(code_lines(&text), 10);
        assert_eq!(length(&[file("a/src/foo/tests.rs", &"test();\n".repeat(900))]), []);
        assert_eq!(length(&[file("tests/integration/src/lib.rs", &"test();\n".repeat(900))]), []);
    }
}
