//! How much one address may have of this port.
//!
//! Rule: connections are counted in all and for each address, announces and unproven datagrams for each address and
//! second; what is beyond is turned away, and no table here grows with what strangers send.
//!
//! Not here: what is said to those who are turned away.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at once: a room of 300 that all start, six times over, and far below a usual limit of open files.
pub(super) const CONNECTIONS_MAX: usize = 2000;
/// Connections at once of one address, so that one machine cannot take all of them.
pub(super) const CONNECTIONS_PER_ADDRESS_MAX: usize = 250;
/// Addresses share this many counters by a keyed hash, so the table never grows. Two that share one share its limit.
const SLOTS: usize = 4096;

/// Who holds how many connections. As many entries as connections at most.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    /// `None`: a configured proxy, which speaks for many.
    address: Option<IpAddr>,
}

impl Seats {
    pub(super) fn take(seats: &Arc<Self>, address: Option<IpAddr>) -> Option<Seat> {
        let mut taken = seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= CONNECTIONS_MAX {
            return None;
        }
        if let Some(address) = address {
            let of_address = taken.by_address.entry(address).or_default();
            if *of_address >= CONNECTIONS_PER_ADDRESS_MAX {
                return None;
            }
            *of_address += 1;
        }
        taken.all += 1;
        Some(Seat { seats: seats.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let Some(address) = self.address else { return };
        match taken.by_address.get_mut(&address) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.by_address.remove(&address)),
        }
    }
}

/// How often each address did something in this second.
pub(super) struct Rate {
    /// 0 = as often as it likes.
    per_second: u32,
    keys: RandomState,
    counts: Box<[u32; SLOTS]>,
    any: bool,
}

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, keys: RandomState::new(), counts: Box::new([0; SLOTS]), any: false }
    }

    /// Whether it may once more.
    pub(super) fn allow(&mut self, source: IpAddr) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let count = &mut self.counts[self.keys.hash_one(source) as usize % SLOTS];
        self.any = true;
        let allowed = *count < self.per_second;
        *count += u32::from(allowed);
        allowed
    }

    /// The next second begins.
    pub(super) fn forget(&mut self) {
        if std::mem::take(&mut self.any) {
            self.counts.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_of_a_second_and_no_more() {
        let (mut rate, source) = (Rate::new(600), IpAddr::from([10, 0, 0, 1]));
        let allowed = |rate: &mut Rate| (0..70_000).filter(|_| rate.allow(source)).count();
        assert_eq!(allowed(&mut rate), 600);
        rate.forget();
        assert_eq!(allowed(&mut rate), 600);
        assert_eq!(allowed(&mut Rate::new(0)), 70_000);
    }

    #[test]
    fn a_proxy_is_limited_by_the_number_of_all_connections_only() {
        let seats = Arc::new(Seats::default());
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let held: Vec<Seat> = (0..CONNECTIONS_PER_ADDRESS_MAX).filter_map(|_| Seats::take(&seats, address)).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_ADDRESS_MAX);
        assert!(Seats::take(&seats, address).is_none());
        let mut of_proxy: Vec<Seat> = std::iter::from_fn(|| Seats::take(&seats, None)).collect();
        assert_eq!(of_proxy.len(), CONNECTIONS_MAX - CONNECTIONS_PER_ADDRESS_MAX);
        drop(held);
        of_proxy.clear();
        assert!(Seats::take(&seats, address).is_some());
        assert!(seats.0.lock().unwrap().by_address.is_empty());
    }
}
