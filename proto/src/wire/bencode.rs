//! Bencode (BEP 3): reading it within limits, writing it in order, and splicing what must not be encoded again.
//!
//! Rule: nothing is built of bytes from outside before a linear scan has found them complete, at most
//! [`BENCODE_DEPTH_MAX`] deep and of at most [`BENCODE_VALUES_MAX`] values. Not here: what a dictionary means.
//!
//! Reading goes through `bip_bencode`. Its own recursion limit does stop a hundred megabytes of `l`, but nothing in
//! it stops a flat list of two-byte values from becoming thirty times its size in memory.

use std::io::Write as _;
use std::ops::Range;

use bip_bencode::{BDecodeOpt, BRefAccess, BencodeParseErrorKind, BencodeRef};

use crate::config::{BENCODE_DEPTH_MAX, BENCODE_VALUES_MAX};

/// Why bytes are not bencode that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBencode {
    /// It ends before its last value does.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// The last value ends before the bytes do.
    #[error("something follows its end at byte {at}")]
    Trailing {
        /// Where the value ended.
        at: usize,
    },
    /// Something that bencode does not know.
    #[error("it is not bencode at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// Too many lists and dictionaries inside each other.
    #[error("it is more than {BENCODE_DEPTH_MAX} levels deep")]
    TooDeep,
    /// Too many values.
    #[error("it has more than {BENCODE_VALUES_MAX} values")]
    TooManyValues,
    /// A dictionary has a key twice, so that two programs may read two things.
    #[error("a key comes twice before byte {at}")]
    KeyTwice {
        /// Where its second value begins.
        at: usize,
    },
    /// The keys of a dictionary are not in the order of their bytes.
    #[error("the keys are not sorted at byte {at}")]
    KeysUnsorted {
        /// Where the first key out of order begins.
        at: usize,
    },
}

/// What to think of a dictionary whose keys are not in the order of their bytes, as BEP 3 wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// Refuse it.
    Sorted,
    /// Take it.
    Any,
}

/// Reads one value that fills `bytes`.
///
/// # Errors
/// If `bytes` are anything else, or beyond the limits.
pub fn decode(bytes: &[u8], order: KeyOrder) -> Result<BencodeRef<'_>, BadBencode> {
    scan(bytes)?;
    // bip_bencode counts the scalars inside the innermost list as a level of their own.
    let options = BDecodeOpt::new(BENCODE_DEPTH_MAX + 1, order == KeyOrder::Sorted, true);
    BencodeRef::decode(bytes, options).map_err(|error| match *error.kind() {
        BencodeParseErrorKind::BytesEmpty { .. } => BadBencode::Truncated,
        BencodeParseErrorKind::InvalidKeyOrdering { pos, .. } => BadBencode::KeysUnsorted { at: pos },
        BencodeParseErrorKind::InvalidKeyDuplicates { pos, .. } => BadBencode::KeyTwice { at: pos },
        BencodeParseErrorKind::InvalidRecursionExceeded { .. } => BadBencode::TooDeep,
        BencodeParseErrorKind::InvalidByte { pos }
        | BencodeParseErrorKind::InvalidIntNoDelimiter { pos }
        | BencodeParseErrorKind::InvalidIntNegativeZero { pos }
        | BencodeParseErrorKind::InvalidIntZeroPadding { pos }
        | BencodeParseErrorKind::InvalidIntParseError { pos }
        | BencodeParseErrorKind::InvalidLengthNegative { pos }
        | BencodeParseErrorKind::InvalidLengthOverflow { pos } => BadBencode::Malformed { at: pos },
        _ => BadBencode::Malformed { at: 0 },
    })
}

/// The value of `key`, if `value` is a dictionary that has it.
pub fn lookup<'v, 'b>(value: &'v BencodeRef<'b>, key: &str) -> Option<&'v BencodeRef<'b>> {
    value.dict()?.lookup(key.as_bytes())
}

/// Walks over the tokens of one value without building anything: linear in time, constant in memory.
fn scan(bytes: &[u8]) -> Result<(), BadBencode> {
    let (mut at, mut depth, mut values) = (0, 0_usize, 0_usize);
    loop {
        let malformed = BadBencode::Malformed { at };
        let first = *bytes.get(at).ok_or(BadBencode::Truncated)?;
        match first {
            b'l' | b'd' => {
                depth += 1;
                at += 1;
            }
            b'e' => {
                depth = depth.checked_sub(1).ok_or(malformed)?;
                at += 1;
            }
            b'i' => {
                let sign = usize::from(bytes.get(at + 1) == Some(&b'-'));
                (_, at) = number(bytes, at + 1 + sign, b'e')?;
            }
            b'0'..=b'9' => {
                let (length, start) = number(bytes, at, b':')?;
                at = usize::try_from(length).ok().and_then(|n| start.checked_add(n)).ok_or(BadBencode::Truncated)?;
                if at > bytes.len() {
                    return Err(BadBencode::Truncated);
                }
            }
            _ => return Err(malformed),
        }
        values += usize::from(first != b'e');
        if depth > BENCODE_DEPTH_MAX {
            return Err(BadBencode::TooDeep);
        }
        if values > BENCODE_VALUES_MAX {
            return Err(BadBencode::TooManyValues);
        }
        if depth == 0 {
            return if at == bytes.len() { Ok(()) } else { Err(BadBencode::Trailing { at }) };
        }
    }
}

/// The digits from `start` up to `end`, and where what follows begins.
fn number(bytes: &[u8], start: usize, end: u8) -> Result<(u64, usize), BadBencode> {
    let mut value = 0_u64;
    for at in start.. {
        match *bytes.get(at).ok_or(BadBencode::Truncated)? {
            digit @ b'0'..=b'9' => {
                let more = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit - b'0')));
                value = more.ok_or(BadBencode::Malformed { at })?;
            }
            byte if byte == end && at > start => return Ok((value, at + 1)),
            _ => return Err(BadBencode::Malformed { at }),
        }
    }
    Err(BadBencode::Truncated)
}

/// Appends a dictionary that `fill` writes.
pub fn write_dict(out: &mut Vec<u8>, fill: impl FnOnce(&mut DictWriter<'_>)) {
    out.push(b'd');
    fill(&mut DictWriter { out, last: None });
    out.push(b'e');
}

/// Appends a list; `fill` appends its values.
pub fn write_list(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'l');
    fill(out);
    out.push(b'e');
}

/// Appends a byte string.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write!(out, "{}:", bytes.len()).expect("a vector takes every byte");
    out.extend_from_slice(bytes);
}

/// Writes the entries of one dictionary, in the order of their keys.
#[derive(Debug)]
pub struct DictWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Where the last key lies in `out`.
    last: Option<Range<usize>>,
}

impl DictWriter<'_> {
    /// An integer.
    ///
    /// # Panics
    /// As all methods here, if `key` does not come after the key before it: our own mistake.
    pub fn int(&mut self, key: &[u8], value: impl Into<i128>) {
        self.entry(key, |out| {
            write!(out, "i{}e", value.into()).expect("a vector takes every byte");
        });
    }

    /// A byte string.
    pub fn bytes(&mut self, key: &[u8], value: &[u8]) {
        self.entry(key, |out| write_bytes(out, value));
    }

    /// A value that is bencode already.
    pub fn raw(&mut self, key: &[u8], value: &[u8]) {
        self.entry(key, |out| out.extend_from_slice(value));
    }

    /// A dictionary.
    pub fn dict(&mut self, key: &[u8], fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.entry(key, |out| write_dict(out, fill));
    }

    /// A list; `fill` appends its values.
    pub fn list(&mut self, key: &[u8], fill: impl FnOnce(&mut Vec<u8>)) {
        self.entry(key, |out| write_list(out, fill));
    }

    fn entry(&mut self, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        let sorted = self.last.clone().is_none_or(|last| &self.out[last] < key);
        assert!(sorted, "dictionary keys are written in order: {}", key.escape_ascii());
        write_bytes(self.out, key);
        self.last = Some(self.out.len() - key.len()..self.out.len());
        value(self.out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: Result<(), BadBencode>) {
        assert_eq!(decode(bytes.as_ref(), KeyOrder::Sorted).map(|_| ()), expected);
    }

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        write_dict(&mut out, |d| {
            d.bytes(b"", b"empty");
            d.dict(b"d", |inner| inner.int(b"n", u64::MAX));
            d.int(b"i", -5);
            d.list(b"l", |out| {
                write_bytes(out, b"");
                write_list(out, |_| {});
            });
            d.raw(b"raw", b"i7e");
        });
        out
    }

    #[test]
    fn what_is_written_has_these_bytes_and_is_read_again() {
        let out = written();
        let expected = b"d0:5:empty1:dd1:ni18446744073709551615ee1:ii-5e1:ll0:lee3:rawi7ee";
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
        let small = out.escape_ascii().to_string().replace("18446744073709551615", "1").into_bytes();
        let value = decode(&small, KeyOrder::Sorted).unwrap();
        assert_eq!(lookup(&value, "i").and_then(BRefAccess::int), Some(-5));
        assert_eq!(lookup(&value, "raw").map(BencodeRef::buffer), Some(&b"i7e"[..]));
        assert!(lookup(&value, "none").is_none());
        assert!(lookup(lookup(&value, "i").unwrap(), "i").is_none());
    }

    #[test]
    #[should_panic(expected = "dictionary keys are written in order: a")]
    fn keys_out_of_order_are_our_own_mistake() {
        write_dict(&mut Vec::new(), |d| {
            d.int(b"b", 1);
            d.int(b"a", 1);
        });
    }

    #[test]
    fn every_truncation_is_named_so() {
        let whole = b"d1:ai-12e1:bl3:abci0eee";
        check(whole, Ok(()));
        for end in 0..whole.len() {
            check(&whole[..end], Err(BadBencode::Truncated));
        }
    }

    #[test]
    fn what_bencode_does_not_know_is_refused_with_its_place() {
        for (bytes, at) in [
            ("x", 0),
            ("e", 0),
            ("ie", 1),
            ("i-e", 2),
            ("i+5e", 1),
            ("i1.5e", 2),
            ("i05e", 1),
            ("i-0e", 1),
            ("i9223372036854775808e", 1),
            ("i99999999999999999999e", 20),
            ("d+1:ai0ee", 1),
            ("di1ei1ee", 1),
            ("d1:ae", 4),
            ("03:abc", 0),
        ] {
            assert_eq!(decode(bytes.as_bytes(), KeyOrder::Any).err(), Some(BadBencode::Malformed { at }), "{bytes}");
        }
        check("i1ei2e", Err(BadBencode::Trailing { at: 3 }));
        check("99999999999999999:a", Err(BadBencode::Truncated));
        check("18446744073709551615:a", Err(BadBencode::Truncated));
    }

    #[test]
    fn keys_come_once_and_sorted() {
        check("d1:bi0e1:ai0ee", Err(BadBencode::KeysUnsorted { at: 7 }));
        check("d1:ai0e1:ai0ee", Err(BadBencode::KeyTwice { at: 10 }));
        assert!(decode(b"d1:bi0e1:ai0ee", KeyOrder::Any).is_ok());
        assert!(decode(b"d1:bi0e1:ai0e1:bi0ee", KeyOrder::Any).is_err());
    }

    #[test]
    fn depth_and_number_of_values_end_somewhere() {
        let nest = |n: usize| ["l".repeat(n), "e".repeat(n)].concat();
        check(nest(BENCODE_DEPTH_MAX), Ok(()));
        check(["l".repeat(BENCODE_DEPTH_MAX), "0:".into(), "e".repeat(BENCODE_DEPTH_MAX)].concat(), Ok(()));
        check(nest(BENCODE_DEPTH_MAX + 1), Err(BadBencode::TooDeep));
        check("d1:a".repeat(BENCODE_DEPTH_MAX + 1), Err(BadBencode::TooDeep));
        check("l".repeat(100 << 20), Err(BadBencode::TooDeep));
        check(["l", &"0:".repeat(BENCODE_VALUES_MAX - 1), "e"].concat(), Ok(()));
        check(["l", &"0:".repeat(BENCODE_VALUES_MAX), "e"].concat(), Err(BadBencode::TooManyValues));
        check(["l", &"le".repeat(5 << 20), "e"].concat(), Err(BadBencode::TooManyValues));
    }

    #[test]
    fn the_library_alone_survives_deep_nesting_too() {
        let deep = "l".repeat(100 << 20);
        assert!(BencodeRef::decode(deep.as_bytes(), BDecodeOpt::default()).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(prop::sample::select(b"lde0123456789:i-ab\xff".to_vec()), 0..64)) {
            let _ = decode(&bytes, KeyOrder::Any);
        }

        #[test]
        fn any_byte_string_survives_the_round_trip(bytes: Vec<u8>) {
            let mut out = Vec::new();
            write_bytes(&mut out, &bytes);
            let value = decode(&out, KeyOrder::Sorted).unwrap();
            prop_assert_eq!(value.bytes(), Some(&bytes[..]));
        }
    }
}
