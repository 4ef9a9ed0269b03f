//! That one seed is one run, in every profile; and that JSON keeps all of it.

use super::*;

/// Six machines, some kills, an image: a little of everything.
const SMALL: &str = "about = \"a test\"\n[lab]\nmachines = 6\nlink = \"1Gbit/s\"\nimage = \"16MiB\"\nends_at = \"20s\"\n\
                     [faults]\nkills = 2\nlost_datagrams_permille = 50\nuntil = \"10s\"";
/// What `SMALL` with seed 1 does, as a number. It changes with everything that a node says or does: then put the new
/// number here. It is the same in a debug and in a release build, which `tests/run` shows by building this test twice.
const SMALL_TRACE: &str = "40ec0a79716deb73";

#[test]
fn a_run_is_the_same_twice_and_in_every_profile() {
    let small = Scenario::parse(SMALL).unwrap();
    let (first, second) = (run(&small, 1), run(&small, 1));
    assert_eq!(json!(first), json!(second));
    assert_eq!(first.failures, Vec::<String>::new());
    assert_eq!(
        first.trace, SMALL_TRACE,
        "a node does something else than before: if that is meant, it goes into SMALL_TRACE"
    );
}

#[test]
fn whoever_watches_changes_nothing() {
    let small = Scenario::parse(SMALL).unwrap();
    let mut world = World::new(&small, 1);
    world.trace.record();
    world.trace.show(crate::trace::Filter::default(), Box::new(std::io::sink()));
    let mut last = 0.0;
    let row = measure(1, &mut world, |world| {
        let now = progress(world);
        assert!((last..=1.0).contains(&now));
        last = now;
        true
    });
    assert_eq!((row.trace, last), (run(&small, 1).trace, 1.0));
}

#[test]
fn json_keeps_everything_but_what_differs_between_two_runs() {
    let small = Scenario::parse(SMALL).unwrap();
    let row = Row { scenario: "small".to_owned(), ..run(&small, 2) };
    let text = to_json(&[row.clone(), row.clone()]);
    let back = from_json(&text).unwrap();
    let bare = Row { took: Duration::ZERO, ended_at_s: None, ..row };
    assert_eq!(back, [bare.clone(), bare]);
    assert_eq!(text.lines().count(), 4, "a line for each run");
    let keys: Vec<usize> = ["events", "failures", "limit_s", "seed", "trace"].map(|key| text.find(key).unwrap()).into();
    assert!(keys.is_sorted(), "keys in order");
    assert!(from_json("{\"runs\": [{}]}").unwrap_err().to_string().contains("line 1 column"));
}
