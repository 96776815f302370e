//! How much of the resolver one container may take up at once, so that nobody slows the rest.
//!
//! How many packets it may send in a second the data path decides (`overlay_common::resolver`): what it floods with does
//! not get as far as this.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use crate::agent::lock;

/// So many things of each container at once.
pub struct Turns {
    most: usize,
    taken: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
}

/// One of them; ends when dropped.
pub struct Turn {
    taken: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
    asker: Ipv4Addr,
}

impl Turns {
    /// At most so many for each.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// `None` if this container has as many already.
    pub fn begin(&self, asker: Ipv4Addr) -> Option<Turn> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(asker).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Turn { taken: Arc::clone(&self.taken), asker }
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_turns_and_gets_them_back() {
        let turns = Turns::new(2);
        let [one, other] = [Ipv4Addr::new(172, 18, 0, 2), Ipv4Addr::new(172, 18, 0, 3)];
        let held = [turns.begin(one), turns.begin(one)];
        assert!(held.iter().all(Option::is_some) && turns.begin(one).is_none());
        assert!(turns.begin(other).is_some());
        drop(held);
        assert!(turns.begin(one).is_some());
        assert!(lock(&turns.taken).is_empty(), "nothing is kept of those who have none");
    }
}
