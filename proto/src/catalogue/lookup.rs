//! From what a person typed to one image.

use crate::id::InfoHash;

/// Why a text names no image, or more than one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lookup {
    /// Nobody offers it.
    #[error("no such image: {0} (try: labmesh ls)")]
    NoSuchImage(String),
    /// One name, several contents.
    #[error("{name} has several contents; say which: {}", .choices.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// `NAME@HASHPREFIX` of each, just long enough to tell them apart.
        choices: Vec<String>,
    },
}

/// The fewest digits of a hash prefix.
pub const PREFIX_DIGITS_MIN: usize = 4;

/// `NAME@HASHPREFIX` in its two parts, the prefix in small letters.
pub(super) fn split_prefix(text: &str) -> Option<(&str, String)> {
    let (name, prefix) = text.rsplit_once('@')?;
    let digits = PREFIX_DIGITS_MIN..=40;
    let hex = prefix.bytes().all(|b| b.is_ascii_hexdigit());
    (hex && digits.contains(&prefix.len())).then(|| (name, prefix.to_ascii_lowercase()))
}

/// Chooses among the contents of one name.
pub(super) fn only_one(name: &str, found: &[InfoHash]) -> Result<InfoHash, Lookup> {
    match found {
        [] => Err(Lookup::NoSuchImage(name.to_owned())),
        [one] => Ok(*one),
        several => Err(Lookup::Ambiguous { name: name.to_owned(), choices: choices(name, several) }),
    }
}

/// What to type for each of several contents of one name.
fn choices(name: &str, hashes: &[InfoHash]) -> Vec<String> {
    let hex: Vec<String> = hashes.iter().map(InfoHash::to_string).collect();
    let distinct = |digits: usize| {
        let mut prefixes: Vec<&str> = hex.iter().map(|h| &h[..digits]).collect();
        prefixes.sort_unstable();
        prefixes.windows(2).all(|pair| pair[0] != pair[1])
    };
    let digits = (PREFIX_DIGITS_MIN..40).find(|digits| distinct(*digits)).unwrap_or(40);
    hex.iter().map(|h| format!("{name}@{}", &h[..digits])).collect()
}
