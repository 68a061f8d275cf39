//! Small fleets on small vaults: what holds for thousands of nodes holds for tens with a hundredth of the limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use fleet::node::Load;
use fleet::run::{Fleet, Outcome};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(120);
/// Objects of all classes of a node.
const OBJECTS: u64 = 10;

fn fleet(nodes: u32, limit: usize) -> Fleet {
    Fleet {
        nodes,
        scale: 1,
        load: Load { pods: 10, classes: 2, objects: 5, interval: INTERVAL, spread: true },
        limit,
        joining: Duration::from_secs(60),
        quiet: Duration::from_secs(1200),
        outage: Duration::from_secs(600),
        after: Duration::from_secs(600),
        seed: 1,
    }
}

/// What holds however busy the vault is.
fn assert_sound(outcome: &Outcome) {
    let pods = outcome.fleet.pods();
    assert_eq!(outcome.mounts.number, pods, "every pod starts: {outcome:?}");
    // Three tries for each object in half a minute, however many pods want it.
    let tries = u64::from(outcome.fleet.nodes) * OBJECTS * 3 * (outcome.fleet.outage.as_secs() / 30 + 1);
    assert!(outcome.down.refused <= tries, "{} > {tries}", outcome.down.refused);
}

#[test]
fn a_vault_with_room_never_throttles_and_is_asked_once_for_each_object_and_interval() {
    let outcome = fleet(20, 4_000).run();
    assert_sound(&outcome);
    for requests in [outcome.starting, outcome.quiet, outcome.after] {
        assert_eq!(requests.throttled, 0, "{outcome:?}");
    }
    assert_eq!(outcome.failed_mounts, 0);
    // A node takes at least four fifths of the interval between two looks, and asks once for each object then.
    let rounds = outcome.fleet.quiet.as_secs() / (INTERVAL.as_secs() * 4 / 5) + 1;
    let most = 20 * OBJECTS * rounds;
    assert!(outcome.quiet.served <= most, "{} > {most}", outcome.quiet.served);
    assert_eq!(outcome.recovery.number, outcome.fleet.pods());
    // The interval, and what the kubelet takes to call again; one pod's call serves the others of its class.
    assert_eq!(outcome.rotation.number, outcome.fleet.pods());
    assert!(outcome.rotation.longest <= 120.0 + 2.0 * 90.0 + 1.0, "{outcome:?}");
    assert!(outcome.recovery.longest <= 120.0 + 2.0 * 90.0 + 1.0, "{outcome:?}");
}

/// Half of what the nodes want: as five thousand nodes with twenty objects each on a real vault.
#[test]
fn a_vault_that_is_asked_for_too_much_is_not_stormed() {
    let outcome = fleet(40, 16).run();
    assert_sound(&outcome);
    assert!(outcome.quiet.throttled > 0, "the fleet is too small to show anything: {outcome:?}");
    assert!(outcome.quiet.throttled <= 2 * outcome.quiet.served, "{outcome:?}");
    // What the vault can answer is made use of.
    let capacity = 16 * outcome.fleet.quiet.as_secs() / 10;
    assert!(outcome.quiet.served >= capacity * 3 / 4, "{} of {capacity}: {outcome:?}", outcome.quiet.served);
}

#[test]
fn the_same_seed_is_the_same_fleet() {
    let (one, other) = (fleet(5, 4_000).run(), fleet(5, 4_000).run());
    assert_eq!(one.quiet.served, other.quiet.served);
    assert!((one.rotation.longest - other.rotation.longest).abs() < f64::EPSILON);
}
