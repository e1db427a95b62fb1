//! The packet filter beside Go's.

use postern_node::bench::compare_filter;

use crate::lab::said_by;

#[test]
fn verdicts_and_capabilities_are_those_of_go_whatever_the_rules_are() {
    let seed = fastrand::u64(..).to_string();
    println!("the seed is {seed}");
    compare_filter(&said_by("filterdiff", &["-generate", "600", "-seed", &seed]));
}
