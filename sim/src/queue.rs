//! What happens next: events by time, and in the order they were made where the time is the same.
//!
//! Rule: the sequence number breaks every tie, so that nothing depends on the inner order.
//!
//! How: most events lie one of a few spans ahead (a latency, the time of a block, a timer), and time never goes back,
//! so events of one span are made in their order. Each is put behind the latest event that it may follow, in one of a
//! few lanes, each of which is in order; what fits nowhere goes into a heap. The next event is the first of some lane
//! or of the heap. A heap alone costs a dozen cache misses an event in a room of a thousand.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use labmesh_proto::id::Time;

/// Lanes: more than there are spans in a room whose cables differ, few enough to look at them all.
const LANES: usize = 12;
/// What lies further ahead is single: in a lane it would keep others out until then.
const FAR: Duration = Duration::from_millis(300);

/// Events that lie in the future.
#[derive(Debug)]
pub struct Queue<E> {
    lanes: [VecDeque<Entry<E>>; LANES],
    /// When the first of each lane comes, and its number; later than everything if it is empty.
    firsts: [(Time, u64); LANES],
    /// When the last of each lane comes.
    lasts: [Time; LANES],
    heap: BinaryHeap<Reverse<Entry<E>>>,
    /// The moment of the last event.
    now: Time,
    next: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    sequence: u64,
    event: E,
}

impl<E> Entry<E> {
    fn order(&self) -> (Time, u64) {
        (self.at, self.sequence)
    }
}

const NEVER: (Time, u64) = (Time::NEVER, u64::MAX);

impl<E> Queue<E> {
    /// Nothing will happen.
    pub fn new() -> Self {
        Self {
            lanes: std::array::from_fn(|_| VecDeque::new()),
            firsts: [NEVER; LANES],
            lasts: [Time(0); LANES],
            heap: BinaryHeap::new(),
            now: Time(0),
            next: 0,
        }
    }

    /// `event` will happen at `at`, after everything that was said of the same moment before.
    pub fn push(&mut self, at: Time, event: E) {
        let entry = Entry { at, sequence: self.next, event };
        self.next += 1;
        // The lane whose end is the nearest before it: so each lane keeps to one span.
        let near = at.since(self.now) <= FAR;
        let fits = (0..LANES).filter(|lane| near && self.lasts[*lane] <= at);
        match fits.max_by_key(|lane| self.lasts[*lane]) {
            Some(lane) => {
                if self.lanes[lane].is_empty() {
                    self.firsts[lane] = entry.order();
                }
                self.lasts[lane] = at;
                self.lanes[lane].push_back(entry);
            }
            None => self.heap.push(Reverse(entry)),
        }
    }

    /// The next event and its moment.
    pub fn pop(&mut self) -> Option<(Time, E)> {
        self.pop_until(Time::NEVER)
    }

    /// The next event, if it is not later than `end`.
    pub fn pop_until(&mut self, end: Time) -> Option<(Time, E)> {
        let (lane, first) = self.firsts.iter().enumerate().min_by_key(|(_, first)| **first)?;
        let on_heap = self.heap.peek().map_or(NEVER, |Reverse(entry)| entry.order());
        let next = on_heap.min(*first);
        if next.0 > end {
            return None;
        }
        self.now = next.0.min(end);
        if on_heap < *first {
            return self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event));
        }
        let entry = self.lanes[lane].pop_front()?;
        self.firsts[lane] = self.lanes[lane].front().map_or(NEVER, Entry::order);
        Some((entry.at, entry.event))
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
        self.order().cmp(&other.order())
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn lanes_and_heap_together_are_one_order(steps in prop::collection::vec((0..400u64, 0..3usize), 0..300)) {
            let (mut queue, mut model, mut now) = (Queue::new(), Vec::new(), 0);
            for (number, (ahead, pops)) in steps.into_iter().enumerate() {
                let at = now + ahead * 1_000_000;
                queue.push(Time(at), number);
                model.push((at, number));
                for _ in 0..pops {
                    model.sort_unstable();
                    let expected = if model.is_empty() { None } else { Some(model.remove(0)) };
                    prop_assert_eq!(queue.pop().map(|(at, number)| (at.0, number)), expected);
                    now = expected.map_or(now, |(at, _)| at);
                }
            }
        }
    }
}
