//! Free ports of one egress address and protocol.
//!
//! A bitmap in two levels: a claim looks at one word of the summary and one of the map from a rotating start,
//! so it costs the same with one port free as with all of them. A [`PortClaim`] is owned and gives its port
//! back when dropped; running out is an ordinary answer.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The first port that is handed out; those below are for well-known services (RFC 6056, 3.2).
pub const FIRST: u16 = 1024;
const WORDS: usize = 1024;

/// The ports of one address and protocol, shared by all workers.
pub struct PortPool {
    map: Mutex<Map>,
}

struct Map {
    /// One bit a port; set = free.
    free: [u64; WORDS],
    /// One bit a word of `free` that is not zero.
    some: [u64; WORDS / 64],
    left: u32,
    next: u16,
}

impl PortPool {
    /// All ports from [`FIRST`] on are free. `start` is where the search for a free one begins.
    pub fn new(start: u16) -> Arc<Self> {
        let mut map = Map { free: [u64::MAX; WORDS], some: [u64::MAX; WORDS / 64], left: 0, next: start };
        for word in 0..usize::from(FIRST) / 64 {
            map.free[word] = 0;
            map.some[word / 64] &= !(1 << (word % 64));
        }
        map.left = 65_536 - u32::from(FIRST);
        Arc::new(Self { map: Mutex::new(map) })
    }

    /// Claims `wanted` if it is free, else any free port; `None` when all are in use.
    pub fn claim(self: &Arc<Self>, wanted: u16) -> Option<PortClaim> {
        let mut map = self.lock();
        let port = if map.is_free(wanted) { wanted } else { map.any_free()? };
        map.take(port);
        Some(PortClaim { pool: Some(self.clone()), port })
    }

    /// Frees a port that was kept ([`PortClaim::keep`]).
    pub fn give_back(&self, port: u16) {
        self.lock().give_back(port);
    }

    /// Ports that are free.
    pub fn free(&self) -> u32 {
        self.lock().left
    }

    /// Ports that are in use.
    pub fn used(&self) -> u32 {
        65_536 - u32::from(FIRST) - self.free()
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        // Every change of the map is complete before it can panic.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PortPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortPool({} used)", self.used())
    }
}

impl Map {
    fn is_free(&self, port: u16) -> bool {
        self.free[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    fn any_free(&self) -> Option<u16> {
        let start = usize::from(self.next);
        // The start's word from the start's bit on, then the following words, then the start's word again.
        let (word, bit) = (start / 64, start % 64);
        let here = self.free[word] & (u64::MAX << bit);
        if here != 0 {
            return Some((word * 64) as u16 + here.trailing_zeros() as u16);
        }
        let (group, at) = ((word + 1) % WORDS / 64, (word + 1) % 64);
        (0..=WORDS / 64).find_map(|n| {
            let g = (group + n) % (WORDS / 64);
            let some = if n == 0 { self.some[g] & (u64::MAX << at) } else { self.some[g] };
            (some != 0).then(|| {
                let word = g * 64 + some.trailing_zeros() as usize;
                (word * 64) as u16 + self.free[word].trailing_zeros() as u16
            })
        })
    }

    fn take(&mut self, port: u16) {
        let word = usize::from(port) / 64;
        self.free[word] &= !(1 << (port % 64));
        if self.free[word] == 0 {
            self.some[word / 64] &= !(1 << (word % 64));
        }
        self.left -= 1;
        // A step that is odd and not near a power of two spreads consecutive claims over the range.
        self.next = port.wrapping_add(24_571);
    }

    fn give_back(&mut self, port: u16) {
        let word = usize::from(port) / 64;
        self.free[word] |= 1 << (port % 64);
        self.some[word / 64] |= 1 << (word % 64);
        self.left += 1;
    }
}

/// A port in use by one session. Dropping it frees the port.
pub struct PortClaim {
    /// `None` once the port is somebody else's to give back.
    pool: Option<Arc<PortPool>>,
    port: u16,
}

impl PortClaim {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leaves the port in use, to be given back with [`PortPool::give_back`].
    pub fn keep(self) -> u16 {
        let mut this = self;
        this.pool = None;
        this.port
    }
}

impl Drop for PortClaim {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(self.port);
        }
    }
}

impl fmt::Debug for PortClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortClaim({})", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_port_once_then_none_then_again() {
        let pool = PortPool::new(40_000);
        let mut claims: Vec<PortClaim> = (0..64_512).map(|n| pool.claim(n as u16).unwrap()).collect();
        let mut ports: Vec<u16> = claims.iter().map(PortClaim::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, (FIRST..=u16::MAX).collect::<Vec<_>>());
        assert!(pool.claim(5000).is_none());
        let freed = claims.swap_remove(123).port();
        assert_eq!(pool.claim(80).unwrap().port(), freed);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(ops in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400), start: u16) {
            let pool = PortPool::new(start);
            let mut held: BTreeMap<u16, PortClaim> = BTreeMap::new();
            for (claim, port) in ops {
                if claim {
                    let got = pool.claim(port).unwrap();
                    prop_assert!(!held.contains_key(&got.port()), "handed out twice");
                    prop_assert!(got.port() >= FIRST);
                    if port >= FIRST && !held.contains_key(&port) {
                        prop_assert_eq!(got.port(), port, "a wanted port that is free is given");
                    }
                    held.insert(got.port(), got);
                } else {
                    let next = held.range(port..).next().map(|(p, _)| *p);
                    next.and_then(|p| held.remove(&p));
                }
                prop_assert_eq!(pool.used() as usize, held.len());
            }
        }
    }
}
