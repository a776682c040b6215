//! The one list of cases: the table and the tests of every backend are made from it.

use super::harness::Tool;
use super::run::Case;
use crate::capabilities::Ability;

/// Hands the list to a macro: id, module, name, abilities and tools of each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ([$($then:tt)*] [$($given:tt)*]) => {
        $($then)* {
            [$($given)*]
            "R1a" round_trip::published_events_arrive_whole [FanOut] [];
            "R1b" round_trip::a_group_gets_what_was_published_without_it [Groups Persist] [];
            "R2" round_trip::any_bytes_arrive_unchanged [FanOut] [];
            "R3a" round_trip::headers_arrive_unchanged [FanOut] [];
            "R3b" round_trip::bad_headers_are_refused_before_anything_is_sent [FanOut] [];
            "R3c" round_trip::the_whole_envelope_arrives [FanOut] [];
            "R4" round_trip::each_subscription_gets_its_own_topics [FanOut] [];
            "R5" round_trip::the_largest_payload_passes_and_one_byte_more_does_not [FanOut] [];
            "R6a" round_trip::a_group_starts_where_it_is_told [Groups Persist StartAll] [];
            "R6b" round_trip::a_group_outlives_its_members [Groups Persist] [];
            "R6c" round_trip::a_late_subscription_sees_only_what_comes_after [FanOut] [];

            "A1" settlement::a_nacked_event_comes_again [Groups Nack] [];
            "A2" settlement::an_unsettled_event_holds_back_the_next [Groups Prefetch OrderTopic] [];
            "A3" settlement::an_ended_lease_gives_the_event_to_another_member [Groups Lease] [];
            "A4" settlement::a_dropped_delivery_comes_again [Groups Lease] [];
            "A5a" settlement::a_stale_settlement_is_refused [Groups Lease] [];
            "A5b" settlement::a_lost_lease_is_told_to_its_holder [Groups Lease] [];
            "A6a" settlement::what_was_acked_never_comes_again [Groups Lease Persist] [];
            "A6b" settlement::an_ack_outlasts_the_lease [Groups Lease] [];
            "A6c" faults::an_ack_without_an_answer_is_not_ok
                [Groups Lease Persist AckConfirmed] [Fault];
            "A7" settlement::a_killed_consumer_loses_nothing [Groups Lease Persist] [Children];
            "A8a" settlement::attempts_are_counted [Groups Nack Attempts] [];
            "A8b" settlement::attempts_survive_a_restart [Groups Nack Attempts Durable] [Broker];
            "A9" settlement::a_delayed_nack_returns_after_its_delay [Groups Nack NackDelay] [];
            "A10" dead_letters::a_rejected_event_never_comes_again
                [Groups Lease DeadLetters FanOut] [];
            "A11a" dead_letters::an_event_tried_too_often_becomes_one_dead_letter
                [Groups Nack Attempts DeadLetters FanOut] [];
            "A11b" dead_letters::ended_leases_count_as_tries
                [Groups Lease Attempts DeadLetters FanOut] [];
            "A12" settlement::progress_extends_the_lease [Groups Lease Extend] [];
            "A13" settlement::a_redelivery_is_the_original [Groups Nack] [];
            "A14" settlement::acks_out_of_order_skip_nothing [Groups Lease Persist] [];
            "A15" settlement::a_confirmed_ack_is_final [Groups AckConfirmed Persist] [];
            "A16" settlement::without_a_group_there_is_nothing_to_settle [FanOut] [];

            "X1" dead_letters::dead_letters_wait_for_whoever_cares
                [Groups DeadLetters Persist StartAll OrderTopic] [];
            "X2" dead_letters::a_dead_letter_is_counted_and_noticed [Groups DeadLetters] [];
            "X3" dead_letters::a_long_error_is_cut [Groups DeadLetters FanOut] [];
            "X4" dead_letters::reserved_topics_are_not_published_to [FanOut] [];

            "G1" groups::every_group_gets_every_event [Groups] [];
            "G2" groups::each_event_goes_to_one_member [Groups] [];
            "G3" groups::members_come_and_go_without_loss [Groups Lease] [];
            "G4" groups::each_subscription_reads_what_it_lacks
                [FanOut Persist StartAll OrderTopic] [];
            "G5" groups::a_live_group_shares_at_most_once [LiveGroups] [];
            "G6" groups::every_subscription_gets_a_copy [FanOut] [];

            "O1a" order::a_group_keeps_the_order_of_a_topic [Groups OrderTopic] [];
            "O1b" order::a_subscription_keeps_the_order_of_a_topic [FanOut OrderTopic] [];
            "O1c" order::each_publisher_keeps_its_own_order [Groups OrderTopic] [];
            "O2a" consumers::handlers_keep_the_order_of_each_key [Groups OrderKey] [];
            "O2b" order::a_member_gets_each_key_in_order [Groups OrderKey] [];
            "O2c" order::keys_keep_their_order_across_members [Groups OrderKeyAcrossMembers] [];
            "O2d" consumers::handlers_of_several_members_keep_the_order_of_each_key
                [Groups OrderKeyAcrossMembers] [];
            "O3" consumers::a_failed_event_holds_back_its_own_key_alone [Groups OrderKey] [];
            "O4" order::order_survives_a_broken_link [Groups OrderTopic] [Fault];
            "O5" order::pipelined_events_lie_in_the_order_of_their_submits [FanOut OrderTopic] [];

            "P1" publishing::what_is_confirmed_survives_a_killed_broker
                [Groups Persist Confirm Durable] [Broker];
            "P2a" publishing::a_bad_event_harms_no_neighbour [FanOut] [];
            "P2b" publishing::a_flush_waits_for_what_went_before [FanOut] [];
            "P3" publishing::closing_answers_every_publish [Groups Confirm] [];
            "P4" publishing::a_cancelled_publish_arrives_at_most_once [FanOut] [];
            "P5a" publishing::a_topic_comes_into_being_once [FanOut AutoCreate] [];
            "P5b" publishing::a_broker_that_comes_late_is_waited_for [FanOut Confirm] [Broker];
            "P6a" publishing::the_same_id_twice_is_stored_once [FanOut Dedup] [];
            "P6b" publishing::after_the_window_the_same_id_is_another_event
                [FanOut Dedup] [DedupWindow];
            "P7" publishing::a_hanging_broker_makes_publishers_wait [Groups Confirm] [Broker];
            "P8" publishing::what_failed_is_never_seen [FanOut] [];
            "P9" publishing::a_receipt_says_where_the_event_lies [Groups Confirm OrderTopic] [];
            "P10" publishing::an_expected_last_position_is_checked [FanOut ExpectLast] [];
            "P11" publishing::urgent_events_come_first [Groups Persist Priority] [];
            "P12" publishing::a_transient_event_is_delivered [FanOut Transient] [];
            "P13" publishing::ids_are_unique [FanOut] [];

            "L1a" lifecycle::closing_a_subscription_harms_no_other [FanOut Groups] [];
            "L1b" lifecycle::many_close_a_fabric_at_once [FanOut Groups] [];
            "L1c" lifecycle::closing_waits_for_acks [Groups] [];
            "L1e" faults::closing_without_a_broker_keeps_its_deadline [FanOut] [Broker];
            "L2" consumers::a_drain_finishes_what_runs_and_nothing_else [Groups] [];
            "L3" consumers::a_forced_stop_settles_nothing [Groups Lease] [];
            "L4" lifecycle::a_dropped_receive_loses_nothing [FanOut] [];
            "L5a" lifecycle::the_prefetch_bound_holds [Groups Prefetch] [];
            "L5b" consumers::concurrency_changes_while_a_consumer_runs [Groups Prefetch] [];
            "L6" lifecycle::opening_and_closing_loses_nothing [Groups Persist] [];
            "L7" lifecycle::a_leaving_member_gives_back_at_once [Groups] [];
            "L8" lifecycle::a_closed_fabric_answers_closed [FanOut] [];
            "L9" lifecycle::joins_at_the_same_time_make_one_group [Groups] [];

            "F1a" faults::a_restarted_broker_loses_nothing
                [Groups Persist Durable Confirm] [Broker];
            "F1b" faults::a_subscription_outlives_the_broker [FanOut] [Broker];
            "F2" faults::a_paused_broker_loses_nothing [Groups Persist Confirm] [Broker];
            "F3a" faults::a_storm_of_resets_loses_nothing [Groups Persist Confirm] [Fault];
            "F3b" faults::a_refused_client_tries_again_with_patience [FanOut] [Fault];
            "F4a" faults::a_link_that_swallows_everything_loses_nothing
                [Groups Persist Confirm] [Fault];
            "F4b" faults::a_subscription_outlives_a_link_that_swallows [FanOut] [Fault];
            "F5" faults::a_slow_link_is_not_given_up [Groups Persist Confirm] [Fault];
            "F6" faults::a_link_cut_midway_mixes_no_events [Groups Persist Confirm] [Fault];
            "F7" faults::a_full_disk_fails_publishes_and_loses_nothing
                [Groups Persist Durable Confirm] [Disk];
            "F8" faults::a_broker_that_forgot_everything_is_told_again [FanOut] [Broker];
            "F9" faults::revoked_rights_are_told_and_make_no_storm [FanOut] [Rights Fault];
            "F10" nemesis::a_mix_of_faults_loses_nothing
                [Groups Persist Durable Confirm] [Broker Fault Children];

            "M1" consumers::tries_are_bounded_caught_and_made_again [Groups] [];
            "M2a" consumers::an_event_stays_until_its_dead_letter_is_kept
                [Groups Lease DeadLetters FanOut] [];
            "M2b" consumers::a_death_between_letter_and_ack_loses_neither
                [Groups Lease DeadLetters FanOut] [];
            "M3a" consumers::all_outputs_are_kept_or_the_input_is_tried_again [Groups] [];
            "M3b" consumers::outputs_are_confirmed_before_the_input_is_acked [Groups Lease] [];
            "M4" consumers::a_kill_switch_pauses_and_a_probe_closes_it [Groups] [];
            "M5a" requests::each_answer_reaches_its_caller [RequestReply] [];
            "M5b" requests::a_responders_failure_reaches_the_caller [RequestReply] [];
            "M5c" requests::a_late_answer_is_dropped [RequestReply] [];
            "M5d" requests::a_request_without_responders_fails_at_once
                [RequestReply NoResponders] [];
            "M5e" requests::responders_of_one_name_share [RequestReply] [];
            "M5f" requests::requests_travel_outside_of_topics [RequestReply FanOut] [];
            "M5g" requests::a_dropped_request_runs_into_its_timeout [RequestReply] [];

            "M6a" timing::an_expired_event_is_not_delivered [Groups Persist Ttl OrderTopic] [];
            "M6b" timing::an_event_read_in_time_is_delivered [FanOut Ttl] [];
            "M6c" timing::a_delayed_event_comes_when_it_is_due [FanOut Delay OrderTopic] [];
            "M6d" timing::a_delayed_event_survives_a_restart [Groups Delay Durable] [Broker];
            "M6e" timing::a_delay_beyond_the_time_to_live_delivers_nothing [FanOut Ttl Delay] [];
            "M6f" timing::history_keeps_the_dead_buried [FanOut Persist StartAll Ttl] [];

            "M8" telemetry::telemetry_says_what_happened [Groups Nack DeadLetters] [];

            "T1" patterns::a_star_is_exactly_one_level [FanOut] [];
            "T2" patterns::a_hash_is_any_number_of_levels [FanOut] [];
            "T3" patterns::an_arrow_is_one_level_or_more [FanOut] [];
            "T4" patterns::a_literal_is_one_topic [FanOut] [];
            "T5" patterns::a_groups_patterns_mean_the_same [Groups] [];
            "T6" patterns::overlapping_patterns_bring_one_copy [FanOut] [];
            "T7" patterns::wildcards_do_not_reach_reserved_topics [FanOut Groups DeadLetters] [];
            "T8" patterns::a_later_topic_is_received_from_its_first_event [FanOut AutoCreate] [];
            "T9" patterns::bad_names_are_refused [FanOut] [];

            "D1" definitions::joining_with_other_patterns_is_refused [Groups] [];
            "D2a" definitions::another_lease_is_refused [Groups Lease] [];
            "D2b" definitions::another_delivery_limit_is_refused [Groups Attempts DeadLetters] [];
            "D2c" definitions::another_start_is_refused [Groups Persist StartAll] [];
            "D3" definitions::a_definition_has_the_documented_defaults [Groups] [];
            "D4a" definitions::a_redefined_group_keeps_its_place [Groups Persist GroupRedefine] [];
            "D4b" definitions::a_member_can_redefine_its_group [Groups GroupRedefine] [];
            "D4c" definitions::a_pattern_that_comes_back_begins_at_new
                [Groups Persist GroupRedefine] [];
            "D5" definitions::redefining_nothing_is_not_found [Groups GroupRedefine] [];
            "D6" definitions::a_defined_group_keeps_events_without_a_member
                [Groups Persist GroupDefine] [];
            "D7" definitions::defining_a_group_differently_is_refused [Groups GroupDefine] [];
            "D8" definitions::options_that_contradict_each_other_are_refused [Groups FanOut] [];
            "D9" definitions::groups_with_the_same_patterns_are_apart [Groups Persist] [];

            "S1" starts::new_begins_with_the_next_event [FanOut] [];
            "S2" starts::all_begins_with_the_oldest_event [FanOut Persist StartAll OrderTopic] [];
            "S3" starts::last_begins_with_the_newest_event
                [FanOut Persist StartLast OrderTopic] [];
            "S4" starts::last_per_topic_begins_with_the_newest_of_each
                [FanOut Persist StartLastPerTopic OrderTopic] [];
            "S5" starts::a_time_begins_with_what_was_stored_then
                [FanOut Persist StartTime OrderTopic] [];
            "S6" starts::a_position_begins_with_its_event_or_behind_it
                [FanOut Persist StartPosition OrderTopic] [];
            "S7" starts::a_cursor_resumes_every_topic
                [FanOut Persist StartPosition OrderTopic] [];
            "S8" starts::reading_on_from_a_cursor_misses_nothing
                [FanOut Persist StartPosition OrderTopic] [];
            "S9" starts::a_position_of_elsewhere_is_refused [FanOut Persist StartPosition] [];

            "Y1" replay::a_replay_is_whole_and_ends [Persist Replay OrderTopic] [];
            "Y2" replay::a_replay_ends_where_the_history_ended [Persist Replay] [];
            "Y3" replay::a_replay_begins_where_it_is_told [Persist Replay OrderTopic] [];
            "Y4" replay::a_replay_ends_where_it_is_told [Persist Replay OrderTopic] [];
            "Y5" replay::a_replayed_event_is_the_original [Persist Replay] [];
            "Y6" replay::dead_letters_are_replayed_by_name
                [Persist Replay Groups DeadLetters] [];

            "B1" batches::a_batch_gathers_up_to_its_bound [FanOut OrderTopic] [];
            "B2" batches::a_dropped_gathering_loses_nothing [FanOut OrderTopic] [];
            "B3" batches::an_acked_batch_never_comes_again [Groups Lease Persist] [];
            "B4" batches::the_parts_of_a_batch_settle_apart [Groups Nack] [];
            "B5" batches::a_batch_says_what_it_could_not_settle [Groups Lease] [];
            "B6" batches::a_rejected_batch_is_as_many_dead_letters
                [Groups DeadLetters FanOut] [];
            "B7" batches::a_batch_without_a_group_has_nothing_to_settle [FanOut] [];

            "W1" overflow::a_full_queue_makes_publishers_wait
                [FanOut Prefetch WhenFullBlock] [];
            "W2" overflow::a_full_queue_drops_its_oldest_and_says_how_many
                [FanOut Prefetch WhenFullDropOldest] [];
            "W3" overflow::a_full_queue_drops_the_newest_and_says_how_many
                [FanOut Prefetch WhenFullDropNewest] [];
            "W4" overflow::a_full_queue_refuses [FanOut Prefetch WhenFullFail] [];
            "W5" overflow::what_is_not_settled_is_never_evicted
                [Groups Persist OrderTopic] [TopicBound];
            "W6" overflow::waiting_publishers_keep_their_order
                [Groups Persist OrderTopic] [TopicBound];
            "W7" overflow::a_group_that_asks_for_it_loses_its_oldest
                [Groups Persist OrderTopic WhenFullDropOldest] [TopicBound];
            "W8" overflow::a_slow_reader_is_told_what_it_missed
                [FanOut Persist OrderTopic] [TopicBound];

            "C1" care::topics_are_listed_by_pattern [TopicList] [];
            "C2" care::a_topics_figures_are_those_of_its_events [TopicInfo] [];
            "C3" care::a_purged_topic_is_empty_for_everybody [Groups Persist Purge] [];
            "C4" care::a_trimmed_topic_keeps_its_newest [Trim] [];
            "C5" care::groups_are_listed_while_they_are_there [Groups GroupList] [];
            "C6" care::a_groups_figures_follow_its_members [Groups Persist GroupInfo] [];
            "C7" care::a_deleted_group_ends_its_members [Groups GroupDelete] [];
            "C8" care::a_reset_group_reads_from_where_it_is_told [Groups Persist GroupReset] [];
            "C9" care::an_event_sent_to_a_group_reaches_it_alone [Groups GroupSend] [];
            "C10" care::an_event_in_an_inbox_is_settled_like_any_other
                [Groups Nack GroupSend] [];

            "H1" health::health_is_up_until_the_fabric_closes [] [];
            "H2" health::notices_end_with_closed [] [];
            "H3" health::redeliveries_are_counted [Groups Nack Attempts] [];
            "H4" health::open_subscriptions_are_listed [FanOut] [];
            "H5" health::a_stack_can_do_what_it_claims [] [];
            "H6" health::claims_fit_together [] [];
        }
    };
}

macro_rules! table {
    ([] $($id:literal $module:ident::$name:ident [$($ability:ident)*] [$($tool:ident)*];)*) => {
        static CASES: &[Case] = &[$(Case {
            id: $id,
            name: stringify!($name),
            needs: &[$(Ability::$ability,)*],
            tools: &[$(Tool::$tool,)*],
            run: |trial| Box::pin(super::cases::$module::$name(trial)),
        },)*];
    };
}

__conformance_list! { [table!] [] }

/// Every case, in the order of the table.
#[must_use]
pub fn cases() -> &'static [Case] {
    CASES
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    /// The sources of the cases, to hold the list against them.
    const SOURCES: &[&str] = &[
        include_str!("cases/batches.rs"),
        include_str!("cases/care.rs"),
        include_str!("cases/consumers.rs"),
        include_str!("cases/dead_letters.rs"),
        include_str!("cases/definitions.rs"),
        include_str!("cases/faults.rs"),
        include_str!("cases/groups.rs"),
        include_str!("cases/health.rs"),
        include_str!("cases/lifecycle.rs"),
        include_str!("cases/nemesis.rs"),
        include_str!("cases/order.rs"),
        include_str!("cases/overflow.rs"),
        include_str!("cases/patterns.rs"),
        include_str!("cases/publishing.rs"),
        include_str!("cases/replay.rs"),
        include_str!("cases/requests.rs"),
        include_str!("cases/round_trip.rs"),
        include_str!("cases/settlement.rs"),
        include_str!("cases/starts.rs"),
        include_str!("cases/telemetry.rs"),
        include_str!("cases/timing.rs"),
    ];

    #[test]
    fn ids_and_names_are_unique() {
        let ids: HashSet<&str> = CASES.iter().map(|case| case.id).collect();
        let names: HashSet<&str> = CASES.iter().map(|case| case.name).collect();
        assert_eq!((ids.len(), names.len()), (CASES.len(), CASES.len()));
    }

    #[test]
    fn every_case_is_listed_under_the_id_in_its_documentation() {
        let listed: BTreeSet<(&str, &str)> =
            CASES.iter().map(|case| (case.id, case.name)).collect();
        let mut written = BTreeSet::new();
        for source in SOURCES {
            let mut doc: Option<&str> = None;
            for line in source.lines() {
                if let Some(text) = line.strip_prefix("/// ") {
                    doc = doc.or(Some(text));
                } else if let Some(rest) = line.strip_prefix("pub async fn ") {
                    let name = rest.split('(').next().unwrap();
                    let id = doc.and_then(|doc| doc.split(':').next());
                    written.insert((id.unwrap_or_else(|| panic!("{name} has no id")), name));
                } else {
                    doc = None;
                }
            }
        }
        let differing: Vec<_> = listed.symmetric_difference(&written).collect();
        assert!(differing.is_empty(), "{differing:?}");
    }

    #[test]
    fn a_case_without_a_need_for_groups_needs_nothing_of_theirs() {
        let of_groups = [Ability::Nack, Ability::Lease, Ability::DeadLetters, Ability::GroupSend];
        for case in CASES {
            let needs = |ability| case.needs.contains(&ability);
            let grouped = of_groups.into_iter().any(needs);
            assert!(!grouped || needs(Ability::Groups), "{case}");
        }
    }
}
