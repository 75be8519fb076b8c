//! Entries that open while others hit them.

use super::*;

/// An entry that opens while hits stamp it stays open, keeps the newest generation, and is no hit before.
#[test]
fn an_opened_entry_is_stamped_by_hits_and_by_its_session() {
    explore(ITERATIONS, || {
        let (table, epochs) = table::<u32>(2);
        epochs.begin(0);
        epochs.begin(1);
        let c = Connection::<u32>::new(1);
        assert!(c.open(&table, 2));
        let (forward, _) = lock(&c.entries).unwrap();
        let found = table.find(&c.forward).unwrap();
        table.update(forward, &found.rewrite, &Meta { opening: true, ..found.meta });
        let t = {
            let (table, c) = (table.clone(), c.clone());
            spawn(move || {
                for _ in 0..3 {
                    c_hit(&table, &c);
                }
            })
        };
        let s = {
            let (table, c) = (table.clone(), c.clone());
            spawn(move || {
                let entries = lock(&c.entries);
                table.opened(entries.unwrap().0);
                table.stamp(entries.unwrap().0, Generation(4));
            })
        };
        join([t, s]);
        let found = table.find(&c.forward).unwrap();
        assert!(!found.meta.opening);
        assert!(found.meta.generation >= Generation(3));
    });
}

fn c_hit(table: &FlowTable<u32>, c: &Connection<u32>) {
    table.hit(&c.forward, Then::Stamp(Generation(3)));
}
