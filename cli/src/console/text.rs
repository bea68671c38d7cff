//! The two things a console looks for in the bytes that pass: the key that leaves, and the text that is waited for.

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// The bytes before the key that leaves, and whether that key was pressed.
pub(super) fn before_escape(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == ESCAPE) {
        Some(at) => (&bytes[..at], true),
        None => (bytes, false),
    }
}

/// A text that may arrive in pieces.
#[derive(Debug)]
pub(super) struct Needle {
    wanted: Vec<u8>,
    /// The last bytes seen, one fewer than are wanted.
    tail: Vec<u8>,
}

impl Needle {
    /// Looks for `text`; an empty text is found in anything.
    pub(super) fn new(text: &str) -> Self {
        Self { wanted: text.as_bytes().to_vec(), tail: Vec::new() }
    }

    /// Takes further bytes; true once the text has been seen.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> bool {
        self.tail.extend_from_slice(bytes);
        if self.wanted.is_empty() || self.tail.windows(self.wanted.len()).any(|window| window == self.wanted) {
            return true;
        }
        let surplus = self.tail.len().saturating_sub(self.wanted.len() - 1);
        self.tail.drain(..surplus);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_cut() {
        let mut needle = Needle::new("login:");
        assert!(!needle.feed(b"web-1 lo"));
        assert!(!needle.feed(b"g"));
        assert!(needle.tail.len() < 6);
        assert!(needle.feed(b"in: "));
        assert!(!Needle::new("login:").feed(b"logout: "));
    }

    #[test]
    fn what_was_typed_before_leaving_is_still_sent() {
        assert_eq!(before_escape(b"ls\r\x1drm"), (b"ls\r".as_slice(), true));
        assert_eq!(before_escape(b"\x03"), (b"\x03".as_slice(), false));
    }
}
