//! Values of a scenario file that have units, and words of the protocol.
//!
//! Rule: a number without its unit is refused. Not here: what the values mean.

use std::time::Duration;

use serde::Deserialize;

/// A time with its unit: `90s`, `200us`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl Span {
    /// One way through a switch and two stacks.
    pub(super) fn lan() -> Self {
        Self(Duration::from_micros(150))
    }

    /// Late enough for a master and a catalogue.
    pub(super) fn settled() -> Self {
        Self(Duration::from_secs(5))
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|error| format!("{text:?} is no time such as 90s: {error}"))
    }
}

/// Bytes a second: `1Gbit/s`, `200Mbit/s`, `400MB/s`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

impl Rate {
    /// An old SATA SSD.
    pub(super) fn ssd() -> Self {
        Self(400_000_000)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("{text:?} is no rate such as 1Gbit/s or 400MB/s");
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let (scale, divisor) = match unit.trim() {
            "Gbit/s" => (1_000_000_000, 8),
            "Mbit/s" => (1_000_000, 8),
            "GB/s" => (1_000_000_000, 1),
            "MB/s" => (1_000_000, 1),
            "kB/s" => (1_000, 1),
            _ => return Err(bad()),
        };
        number.checked_mul(scale).map(|n| Self(n / divisor)).ok_or_else(bad)
    }
}

/// Bytes: `1GiB`, `256MiB`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let size: bytesize::ByteSize = text.parse().map_err(|e| format!("{text:?} is no size such as 1GiB: {e}"))?;
        Ok(Self(size.as_u64()))
    }
}

/// Anything that the protocol reads from text.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<T: std::str::FromStr>(pub T)
where
    T::Err: std::fmt::Display;

impl<T: std::str::FromStr> TryFrom<String> for Text<T>
where
    T::Err: std::fmt::Display,
{
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: T::Err| error.to_string())
    }
}
