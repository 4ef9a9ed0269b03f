//! What happens next: events by time, and in the order they were made where the time is the same.
//!
//! Rule: the sequence number breaks every tie, so that nothing depends on the heap's inner order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use labmesh_proto::id::Time;

/// Events that lie in the future.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    sequence: u64,
    event: E,
}

impl<E> Queue<E> {
    /// Nothing will happen.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), next: 0 }
    }

    /// `event` will happen at `at`, after everything that was said of the same moment before.
    pub fn push(&mut self, at: Time, event: E) {
        self.heap.push(Reverse(Entry { at, sequence: self.next, event }));
        self.next += 1;
    }

    /// The next event and its moment.
    pub fn pop(&mut self) -> Option<(Time, E)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }

    /// The next event, if it is not later than `end`.
    pub fn pop_until(&mut self, end: Time) -> Option<(Time, E)> {
        self.heap.peek().filter(|Reverse(entry)| entry.at <= end)?;
        self.pop()
    }

    /// How many events were ever put in.
    pub fn count(&self) -> u64 {
        self.next
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_made() {
        let mut queue = Queue::new();
        for (at, name) in [(5, "late"), (1, "first"), (5, "later"), (1, "second"), (0, "now")] {
            queue.push(Time(at), name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(order, ["now", "first", "second", "late", "later"]);
    }
}
