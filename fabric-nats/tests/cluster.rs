//! The cases with faults on three servers that are one: any of them may end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

use fabric_core::conformance::{Clock, test};
use harness::NatsHarness;

macro_rules! on_three_servers {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            let harness = || NatsHarness::of_three_servers();
            test(Clock::Real, harness, concat!(module_path!(), "::", stringify!($name)));
        })+
    };
}

on_three_servers! {
    a_restarted_broker_loses_nothing
    a_subscription_outlives_the_broker
    a_paused_broker_loses_nothing
    a_storm_of_resets_loses_nothing
    a_link_that_swallows_everything_loses_nothing
    what_is_confirmed_survives_a_killed_broker
    order_survives_a_broken_link
    a_mix_of_faults_loses_nothing
}
