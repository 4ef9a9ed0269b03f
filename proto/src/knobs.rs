//! temporary
use std::sync::atomic::{AtomicU64, Ordering};
pub static K: [AtomicU64; 16] = [const { AtomicU64::new(u64::MAX) }; 16];
pub fn k(n: usize, default: u64) -> u64 { let v = K[n].load(Ordering::Relaxed); if v == u64::MAX { default } else { v } }
