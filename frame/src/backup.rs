//! A backup file: what it is of, the state in checked pieces, and an end that says that it is whole.
//!
//! ```text
//! head record      whose state, at which revision, made when and by whom, what it counts, which keys it needs
//! piece record …   the state's bytes, each piece with its checksum
//! end record       how many pieces and bytes there must be, and the checksum of them all
//! ```
//!
//! Who writes it and who reads it need not be the same program: the command line checks a file without understanding the
//! state in it. A reader believes nothing that its record's checksum does not cover, and a file without its end is refused.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{FrameError, HEADER_BYTES, decode, decode_body, encode, encode_value};

mod kind {
    pub(super) const HEAD: u16 = 0x0401;
    pub(super) const PIECE: u16 = 0x0402;
    pub(super) const END: u16 = 0x04ff;
}

const VERSION: u16 = 1;

/// Bytes in one piece: a damaged one is found before much is read.
const PIECE_BYTES: usize = 1 << 20;

/// What a backup is of. Frozen: a new field is a new version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The cluster's id.
    pub cluster: String,
    /// How often the cluster had been restored.
    pub incarnation: u64,
    /// The version of its rules.
    pub cluster_version: u32,
    /// The revision of the state.
    pub revision: u64,
    /// When the backup was made, in milliseconds since 1970, by the clock of who made it.
    pub made_at_ms: u64,
    /// The name of the member that made it.
    pub made_by: String,
    /// The version of its program.
    pub program: String,
    /// VMs in it.
    pub vms: u64,
    /// Hosts in it.
    pub hosts: u64,
    /// Images in it.
    pub images: u64,
    /// Changes of the past in it.
    pub history: u64,
    /// Keys that open the secrets in it; the keys themselves are not in it.
    pub key_ids: Vec<String>,
    /// The state's digest, as members compare it.
    pub digest: [u8; 32],
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    pieces: u64,
    bytes: u64,
    crc32: u32,
}

/// Writes a backup. What is written to it is the state.
pub struct Writer<W: Write> {
    out: W,
    piece: Vec<u8>,
    pieces: u64,
    bytes: u64,
    hasher: crc32fast::Hasher,
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Begins a backup.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(mut out: W, head: &Head) -> io::Result<Self> {
        out.write_all(&encode_value(kind::HEAD, VERSION, head).map_err(io::Error::other)?)?;
        Ok(Self { out, piece: Vec::new(), pieces: 0, bytes: 0, hasher: crc32fast::Hasher::new() })
    }

    /// Writes the end; without it the file is not whole.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        self.put()?;
        let end = End { pieces: self.pieces, bytes: self.bytes, crc32: self.hasher.finalize() };
        self.out.write_all(&encode_value(kind::END, VERSION, &end).map_err(io::Error::other)?)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.out.write_all(&encode(kind::PIECE, VERSION, &self.piece).map_err(io::Error::other)?)?;
        self.hasher.update(&self.piece);
        self.bytes += self.piece.len() as u64;
        self.pieces += 1;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.put()?;
        }
        Ok(taken)
    }

    /// A piece is written when it is full: a flush in between would make many small ones.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a backup: first what it is of, then, as a [`Read`], the state.
///
/// Each byte that it gives was covered by a checksum. Its end is reported as the end of the stream only when the file's end
/// record was found right and nothing follows it; whatever is wrong is an error that names the place.
#[derive(Debug)]
pub struct Reader<R: Read> {
    from: R,
    head: Head,
    piece: Vec<u8>,
    given: usize,
    pieces: u64,
    bytes: u64,
    hasher: crc32fast::Hasher,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads what the backup is of.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if it is no backup or its head is damaged; those of `from`.
    pub fn begin(mut from: R) -> io::Result<Self> {
        let (found, body) = record(&mut from, "its head")?;
        if found != kind::HEAD {
            return Err(wrong("its head", "this is a record of another sort; is it a backup of Berth?"));
        }
        let head = decode_body(kind::HEAD, &body).map_err(|error| wrong("its head", error))?;
        Ok(Self {
            from,
            head,
            piece: Vec::new(),
            given: 0,
            pieces: 0,
            bytes: 0,
            hasher: crc32fast::Hasher::new(),
            ended: false,
        })
    }

    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Reads to the end and keeps nothing: whether the backup is whole, and how many bytes of state it holds.
    ///
    /// # Errors
    /// As the reading.
    pub fn verify(mut self) -> io::Result<(Head, u64)> {
        while self.advance()? {}
        Ok((self.head, self.bytes))
    }

    /// Reads the next record; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let place = format!("piece {}", self.pieces);
        let (found, body) = record(&mut self.from, &place)?;
        match found {
            kind::PIECE => {
                self.hasher.update(&body);
                self.bytes += body.len() as u64;
                self.pieces += 1;
                self.piece = body;
                self.given = 0;
                Ok(true)
            }
            kind::END => {
                let told: End = decode_body(kind::END, &body).map_err(|error| wrong("its end", error))?;
                let found = End { pieces: self.pieces, bytes: self.bytes, crc32: self.hasher.clone().finalize() };
                if told != found {
                    return Err(wrong("its end", format!("it announces {told:?}, and there is {found:?}")));
                }
                if self.from.read(&mut [0])? != 0 {
                    return Err(wrong("its end", "something follows it"));
                }
                self.ended = true;
                Ok(false)
            }
            other => Err(wrong(&place, format!("a record of unknown kind {other:#06x}"))),
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let taken = into.len().min(self.piece.len() - self.given);
        into[..taken].copy_from_slice(&self.piece[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

fn wrong(place: &str, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the backup is damaged or no backup, at {place}: {why}"))
}

/// The kind and body of the next record.
fn record(from: &mut impl Read, place: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut wanted = HEADER_BYTES;
    loop {
        let missing = (wanted - bytes.len()) as u64;
        from.take(missing).read_to_end(&mut bytes)?;
        match decode(&bytes) {
            Ok(record) if record.header.version != VERSION => {
                let version = record.header.version;
                return Err(wrong(
                    place,
                    format!("version {version} is newer than this program, which reads {VERSION}"),
                ));
            }
            Ok(record) => {
                let found = record.header.kind;
                return Ok((found, bytes.split_off(HEADER_BYTES)));
            }
            Err(FrameError::Truncated { needed, .. }) if bytes.len() == wanted && needed > wanted => wanted = needed,
            Err(error) => return Err(wrong(place, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head { cluster: "lab".into(), revision: 300, key_ids: vec!["k1".into()], ..Head::default() }
    }

    fn written(state: &[u8]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &head()).unwrap();
        writer.write_all(state).unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut reader = Reader::begin(bytes)?;
        let mut state = Vec::new();
        reader.read_to_end(&mut state)?;
        Ok(state)
    }

    #[test]
    fn what_was_written_is_read_again_over_piece_borders_too() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let state: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let bytes = written(&state);
            assert!(read(&bytes).unwrap() == state, "{length}");
            let (found, counted) = Reader::begin(&*bytes).unwrap().verify().unwrap();
            assert_eq!((found, counted), (head(), length as u64));
        }
    }

    #[test]
    fn a_backup_of_version_1_is_written_as_ever() {
        let hex = written(b"state").iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(hex, include_str!("backup/v1.hex").trim());
    }

    #[test]
    fn a_file_without_its_end_or_with_more_behind_it_is_refused() {
        let bytes = written(b"state");
        let end = bytes.len() - (HEADER_BYTES + 7);
        assert!(decode(&bytes[end..]).is_ok(), "the end record is where the test believes it");
        assert!(read(&bytes[..end]).is_err());
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
        assert!(read(b"").is_err() && read(b"not a backup at all").is_err());
    }

    #[test]
    fn a_piece_that_is_missing_or_changed_places_is_found_at_the_end() {
        let (one, two) = (encode(kind::PIECE, VERSION, b"one").unwrap(), encode(kind::PIECE, VERSION, b"two").unwrap());
        let head = encode_value(kind::HEAD, VERSION, &head()).unwrap();
        let end = End { pieces: 2, bytes: 6, crc32: crate::crc32(b"onetwo") };
        let end = encode_value(kind::END, VERSION, &end).unwrap();
        let with = |pieces: &[&[u8]]| read(&[&head[..], &pieces.concat(), &end].concat());
        assert_eq!(with(&[&one, &two]).unwrap(), b"onetwo");
        assert!(with(&[&two, &one]).is_err() && with(&[&one]).is_err() && with(&[&one, &two, &two]).is_err());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_always_found(at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&[7; 300]);
            let mut flipped = bytes.clone();
            let bit = at.index(bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&flipped).is_err());
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
