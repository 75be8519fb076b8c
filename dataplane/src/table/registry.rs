//! Things that packets meet for the first time, each made once and never moved or removed.
//!
//! A hash trie that only grows: a look-up takes no lock and follows a few pointers, each to a place written
//! once; only making something new takes the lock. Its size is that of what was ever met, so whoever makes
//! things bounds them.

use super::exact::Key;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What things are known by: enough for an address, rule ids or the like, and a number beside it.
pub type RegistryKey = (u128, u32);

const HEADS_LOG2: u32 = 10;
const CHILDREN_LOG2: u32 = 2;

/// The registry.
#[derive(Debug)]
pub struct Registry<V> {
    /// The topmost nodes, in place: most look-ups end there.
    heads: Box<[OnceLock<Node<V>>]>,
    making: Mutex<()>,
}

#[derive(Debug)]
struct Node<V> {
    key: RegistryKey,
    value: V,
    children: [OnceLock<Box<Self>>; 1 << CHILDREN_LOG2],
}

/// Where a node will be; filled under the lock.
enum Place<'a, V> {
    Head(&'a OnceLock<Node<V>>),
    Child(&'a OnceLock<Box<Node<V>>>),
}

impl<'a, V> Place<'a, V> {
    fn fill(self, key: RegistryKey, value: V) -> &'a V {
        let node = || Node { key, value, children: Default::default() };
        match self {
            Self::Head(place) => &place.get_or_init(node).value,
            Self::Child(place) => &place.get_or_init(|| Box::new(node())).value,
        }
    }
}

impl<V> Default for Registry<V> {
    fn default() -> Self {
        Self { heads: (0..1 << HEADS_LOG2).map(|_| OnceLock::new()).collect(), making: Mutex::new(()) }
    }
}

impl<V> Registry<V> {
    /// What is registered under a key.
    pub fn get(&self, key: RegistryKey) -> Option<&V> {
        self.find(key).ok()
    }

    /// What is registered under a key, made if need be.
    #[inline]
    pub fn get_or_make(&self, key: RegistryKey, make: impl FnOnce() -> V) -> &V {
        self.find(key).unwrap_or_else(|_| self.make(key, make))
    }

    #[cold]
    #[inline(never)]
    fn make(&self, key: RegistryKey, make: impl FnOnce() -> V) -> &V {
        let _making = self.lock();
        self.find(key).unwrap_or_else(|place| place.fill(key, make()))
    }

    /// The same when `make` may decline; then nothing is registered.
    #[inline]
    pub fn get_or_try(&self, key: RegistryKey, make: impl FnOnce() -> Option<V>) -> Option<&V> {
        self.find(key).ok().or_else(|| self.try_make(key, make))
    }

    #[cold]
    #[inline(never)]
    fn try_make(&self, key: RegistryKey, make: impl FnOnce() -> Option<V>) -> Option<&V> {
        let _making = self.lock();
        match self.find(key) {
            Ok(value) => Some(value),
            Err(place) => Some(place.fill(key, make()?)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing is half done under the lock.
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, or the free place where it belongs.
    #[inline]
    fn find(&self, key: RegistryKey) -> Result<&V, Place<'_, V>> {
        let hash = key.0.mix() ^ u64::from(key.1).mix();
        let head = &self.heads[(hash >> (64 - HEADS_LOG2)) as usize];
        match head.get() {
            Some(node) if node.key == key => Ok(&node.value),
            Some(node) => node.find(key, hash.rotate_left(HEADS_LOG2)),
            None => Err(Place::Head(head)),
        }
    }

    /// Everything, in no order.
    pub fn all(&self) -> Vec<(RegistryKey, &V)> {
        let mut all = Vec::new();
        let mut open: Vec<&Node<V>> = self.heads.iter().filter_map(OnceLock::get).collect();
        while let Some(node) = open.pop() {
            all.push((node.key, &node.value));
            open.extend(node.children.iter().filter_map(OnceLock::get).map(Box::as_ref));
        }
        all
    }
}

impl<V> Node<V> {
    /// The same among the nodes below this one.
    fn find(&self, key: RegistryKey, mut hash: u64) -> Result<&V, Place<'_, V>> {
        let mut node = self;
        loop {
            hash = hash.rotate_left(CHILDREN_LOG2);
            let place = &node.children[hash as usize % (1 << CHILDREN_LOG2)];
            node = match place.get() {
                Some(node) if node.key == key => return Ok(&node.value),
                Some(node) => node,
                None => return Err(Place::Child(place)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU32, Ordering},
    };

    #[test]
    fn everything_is_made_once_and_found_again() {
        let registry = Registry::default();
        let keys: Vec<RegistryKey> = (0..20_000u32).map(|n| (u128::from(n / 3), n % 3)).collect();
        for key in &keys {
            assert_eq!(registry.get(*key), None);
            assert_eq!(registry.get_or_make(*key, || *key), key);
            assert_eq!(registry.get_or_make(*key, || (0, 9)), key, "made twice");
        }
        let all: BTreeMap<_, _> = registry.all().into_iter().map(|(k, v)| (k, *v)).collect();
        assert_eq!(all, keys.iter().map(|k| (*k, *k)).collect());
        assert_eq!(registry.get_or_try((7, 7), || None), None);
        assert_eq!(registry.get((7, 7)), None, "what was declined is not there");
    }

    #[test]
    fn threads_agree_on_what_was_made() {
        let registry = Registry::default();
        let made = AtomicU32::new(0);
        let numbers = |_| {
            let make = || made.fetch_add(1, Ordering::Relaxed);
            (0..5000u32).map(|n| *registry.get_or_make((n.into(), 1), make)).collect::<Vec<_>>()
        };
        let all: Vec<Vec<u32>> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|n| s.spawn(move || numbers(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(all.iter().all(|numbers| *numbers == all[0]));
        assert_eq!(made.load(Ordering::Relaxed), 5000);
    }
}
