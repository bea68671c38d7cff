//! A reader for tests: walks one of the two trees of an image and gives back names and contents.

use super::SECTOR;

pub(crate) fn volume_label(image: &[u8], joliet: bool) -> String {
    let field = &image[descriptor(image, joliet)..][40..72];
    let text = if joliet {
        char::decode_utf16(field.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])))
            .map(Result::unwrap)
            .collect()
    } else {
        String::from_utf8(field.to_vec()).unwrap()
    };
    text.trim_end().to_owned()
}

pub(crate) fn files(image: &[u8], joliet: bool) -> Vec<(String, Vec<u8>)> {
    let root = &image[descriptor(image, joliet)..][156..190];
    let mut folder = &contents(image, root)[..];
    let mut files = Vec::new();
    while let Some(&length) = folder.first().filter(|length| **length > 0) {
        let (record, rest) = folder.split_at(usize::from(length));
        folder = rest;
        let identifier = &record[33..33 + usize::from(record[32])];
        if !matches!(identifier, [0 | 1]) {
            let name = if joliet {
                let units = identifier.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                char::decode_utf16(units).map(Result::unwrap).collect()
            } else {
                rock_ridge_name(record)
            };
            files.push((name, contents(image, record)));
        }
    }
    files
}

fn descriptor(image: &[u8], joliet: bool) -> usize {
    let at = SECTOR * if joliet { 17 } else { 16 };
    assert_eq!(&image[at + 1..at + 6], b"CD001");
    assert_eq!(image[at], if joliet { 2 } else { 1 });
    at
}

fn contents(image: &[u8], record: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let little = u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        assert_eq!(little, u32::from_be_bytes(record[at + 4..at + 8].try_into().unwrap()), "both orders agree");
        little as usize
    };
    image[number(2) * SECTOR..][..number(10)].to_vec()
}

fn rock_ridge_name(record: &[u8]) -> String {
    let mut at = (33 + usize::from(record[32])).next_multiple_of(2);
    while at + 4 <= record.len() {
        let length = usize::from(record[at + 2]);
        if &record[at..at + 2] == b"NM" {
            return String::from_utf8(record[at + 5..at + length].to_vec()).unwrap();
        }
        at += length;
    }
    panic!("no Rock Ridge name")
}
