//! Cases that are steps of one story, as changes to a living network.

use super::{corpus, play::Net, say, score};
use std::collections::HashMap;
use supernet_testkit::netpol::Case;

/// The story that a case is a step of: "e2e-15" of "e2e-15-s2".
fn story(case: &Case) -> Option<&str> {
    let (story, step) = case.id.rsplit_once("-s")?;
    step.parse::<u32>().ok().map(|_| story)
}

#[test]
fn living_connections_go_on_as_far_as_each_step_allows() {
    let Some(cases) = corpus() else { return };
    let steps: Vec<Case> = cases.into_iter().filter(|case| story(case).is_some()).collect();
    if steps.is_empty() {
        say("NO STEPS: the corpus has no case of several steps.");
        return;
    }
    for cache in [true, false] {
        let mut nets: HashMap<String, Net> = HashMap::new();
        score(&steps, |case| {
            let story = story(case).unwrap_or_default().to_owned();
            nets.entry(story).or_insert_with(|| Net::new(8 * case.probes.len(), cache)).step(case)
        });
    }
}
