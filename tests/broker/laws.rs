//! The laws of the broker, which every driver keeps.
//!
//! A law is a plain async function named as a sentence. It takes handles on one fresh, empty broker. `laws!` makes each law a test of
//! each driver. A new driver adds a [`Place`] to `taskhost_testing` and one line at the end of this file.

mod becomes;
mod cancel;
mod edit;
mod ends;
mod enqueue;
mod flows;
mod kept;
mod lease;
mod logs;
mod once;
mod order;
mod past;
mod schedules;
pub(crate) mod shared;
mod shown;
mod tags;
mod told;

use taskhost_broker::BrokerSettings;

use crate::support::{Place, RedisServer, SqlitePlace};

macro_rules! laws {
    ($driver:ident, $place:ty) => {
        mod $driver {
            use super::*;
            tests! { $place;
                enqueue {
                    one [
                        a_known_id_is_a_duplicate_and_changes_nothing,
                        ids_are_unique_in_their_queue_only,
                        an_id_that_stands_in_two_queues_is_acted_on_only_where_one_is_named,
                        many_are_enqueued_in_one_call_and_answered_in_its_order,
                        a_unique_key_holds_until_the_end_and_names_its_holder,
                        a_unique_key_is_of_one_queue,
                        a_unique_key_s_time_counts_from_when_its_task_is_due,
                        a_unique_key_is_released_when_its_time_is_over_and_then_only_by_its_new_holder,
                        a_delayed_task_is_not_claimed_before_it_is_due_and_on_time_then,
                        a_task_for_a_time_that_has_passed_is_ready,
                        what_was_asked_for_arrives,
                        headers_arrive_in_their_order_those_of_a_trace_too,
                        an_expired_waiting_task_ends_cancelled_and_is_not_run,
                        a_sweep_ends_what_expired_in_a_paused_queue,
                    ]
                    two [
                        eight_concurrent_enqueues_of_one_id_add_it_once,
                        who_waits_for_work_is_woken_by_an_enqueue,
                        an_earlier_due_time_wakes_who_waits_for_a_later_one,
                    ]
                    with small_payloads [a_payload_over_the_limit_refuses_the_whole_call]
                }
                flows {
                    one [
                        a_flow_runs_its_steps_in_their_order_with_the_results_of_those_before,
                        a_cancelled_flow_starts_nothing_more_but_undo_newest_first,
                        one_failed_step_is_retried_alone_with_what_it_blocked,
                        a_dead_task_of_a_flow_that_is_retried_lets_the_flow_go_on,
                        a_signal_counts_once_before_or_after_the_wait,
                        a_paused_flow_starts_nothing_and_keeps_what_it_is_told,
                        a_task_of_a_flow_that_is_cancelled_or_deleted_while_it_waits_is_a_cancelled_step,
                        a_flow_within_a_flow_ends_its_step_and_is_stopped_with_it,
                        a_claim_and_a_heartbeat_say_that_a_flow_wants_a_step_and_when,
                        a_list_of_a_thousand_items_runs_so_many_at_once,
                        a_flow_that_can_t_run_is_refused_and_nothing_is_written,
                        flows_are_listed_with_those_that_go_on_first,
                    ]
                    two [a_join_starts_once_however_many_take_its_steps,]
                    with no_results [no_result_that_a_living_flow_needs_disappears]
                }
                becomes {
                    one [what_is_handed_back_after_its_time_to_start_expires,]
                    with kilobyte_payloads [a_verdict_has_the_same_end_on_every_broker]
                }
                once {
                    one [
                        a_child_is_added_once_whatever_its_result_ttl,
                        a_child_that_was_cancelled_deleted_purged_or_has_expired_is_not_added_again,
                        a_child_that_is_no_longer_kept_is_nowhere_shown_and_its_id_is_free_to_enqueue,
                    ]
                    with no_results [a_child_is_added_once_whatever_the_broker_keeps]
                }
                told {
                    one []
                    two [
                        who_waits_when_a_task_ends_gets_the_end_although_nothing_is_kept,
                        who_enqueues_to_wait_gets_an_end_that_came_before_it_waited,
                        who_waits_for_a_task_that_is_deleted_or_purged_is_told_that_it_is_cancelled,
                        who_waits_for_a_task_that_expires_is_told_although_nothing_is_kept,
                        many_who_wait_at_once_are_each_told_their_own_end,
                    ]
                    with no_results [a_success_is_told_when_the_broker_keeps_no_results]
                }
                tags {
                    one [
                        a_task_keeps_its_tags_from_the_enqueue_to_its_end,
                        a_listing_by_tags_shows_the_tasks_that_have_all_of_them,
                        children_and_firings_arrive_with_their_tags,
                    ]
                }
                order {
                    one [
                        a_claimed_task_is_claimed_once,
                        order_is_priority_then_first_in_first_out,
                        first_in_is_first_out_whatever_the_ids_are,
                        a_queue_s_tasks_are_claimed_in_that_queue_only,
                        a_claim_says_whether_there_is_more,
                        a_retried_task_comes_back_after_its_delay_and_is_counted,
                        a_task_handed_back_is_not_counted,
                        a_task_handed_back_keeps_its_place_and_a_retried_one_goes_behind_the_others,
                        a_delayed_task_becomes_ready_while_its_queue_is_paused,
                        parked_tasks_are_claimed_in_order_with_the_ready_ones,
                        a_parked_task_can_be_cancelled,
                    ]
                    two [
                        racing_workers_claim_each_task_once,
                        a_paused_queue_claims_nothing_and_resuming_wakes,
                        a_parked_task_is_claimed_by_who_names_it_and_by_nobody_else,
                        a_random_drain_ends_each_task_once,
                    ]
                    with impatient [a_task_parked_too_long_under_a_name_nobody_offers_is_dead]
                    with impatient [a_task_that_waited_for_a_slot_outlives_its_plugin_by_the_whole_time]
                    with impatient [a_plugin_that_comes_back_gives_those_who_wait_their_time_anew]
                    with impatient [a_backlog_older_than_the_time_outlives_the_first_sweep]
                    with impatient [a_task_that_is_parked_late_has_its_own_time]
                }
                ends {
                    one [
                        an_enqueued_task_is_claimed_finished_and_has_its_result,
                        awaiting_gives_the_newest_view_when_the_time_is_over,
                        a_dead_end_stands_in_the_dead_set_and_is_awaited_like_any,
                        a_dead_task_retried_begins_anew,
                        only_what_ended_without_a_result_or_is_delayed_is_retried,
                        a_delayed_task_is_run_at_once_by_a_retry,
                        a_retry_is_refused_while_another_holds_the_unique_key,
                        a_task_is_deleted_unless_it_runs,
                        the_last_five_errors_are_kept,
                        progress_is_shown_while_it_runs_and_gone_with_the_end,
                        children_come_to_be_with_success_in_any_queue,
                        a_late_success_brings_no_children,
                        what_follows_comes_with_every_verdict_that_is_recorded,
                    ]
                    two [
                        who_awaits_an_end_is_woken_by_it,
                        who_awaits_an_end_is_told_all_that_is_known_of_it,
                    ]
                    with kilobyte_payloads [a_result_over_the_limit_is_dead_and_says_so]
                    with kilobyte_payloads [a_child_over_the_payload_limit_makes_its_parent_dead_and_says_so]
                }
                kept {
                    one [
                        a_result_is_gone_after_its_time_and_its_id_free_again,
                        a_task_that_wants_no_result_keeps_none,
                    ]
                    with short_results [the_broker_s_time_for_results_counts_from_the_end]
                    with short_results [every_end_but_death_is_kept_for_that_time_and_no_longer]
                    with short_results [an_id_whose_time_is_over_is_free_and_no_sweep_takes_its_next_task]
                    with small_dead_set [a_sweep_keeps_the_newest_of_the_dead]
                    with young_dead_set [a_sweep_forgets_the_old_dead]
                }
                logs {
                    one [
                        what_bodies_log_is_kept_newest_last,
                        a_long_log_keeps_its_newest_64_kib,
                        the_log_of_an_attempt_that_runs_is_shown_and_each_line_stands_once,
                    ]
                }
                lease {
                    one [
                        only_registering_makes_an_incarnation,
                        the_first_look_at_an_expired_lease_only_marks_it,
                        a_lost_lease_is_taken_over_when_all_of_it_is_over_and_not_before,
                        a_heartbeat_keeps_all_that_is_held,
                        a_heartbeat_adopts_too,
                        other_queues_are_not_adopted,
                        a_late_finish_of_an_earlier_attempt_changes_nothing,
                        another_incarnation_cannot_finish_what_it_does_not_hold,
                        a_batch_of_finishes_is_answered_one_by_one,
                        the_held_set_lists_what_was_claimed,
                    ]
                    two [
                        incarnations_are_never_the_same,
                        a_lost_lease_cannot_finish,
                        an_incarnation_proved_gone_is_adopted_at_once,
                        an_expired_lease_is_adopted_once,
                        leaving_hands_back_uncounted,
                    ]
                }
                edit {
                    one [
                        a_task_runs_with_the_arguments_that_it_was_edited_to,
                        what_runs_or_has_succeeded_is_not_edited,
                    ]
                    with kilobyte_payloads [an_edit_over_the_payload_limit_changes_nothing]
                }
                past {
                    one [
                        records_add_up_by_step_and_body,
                        a_repeated_record_counts_once,
                        a_record_notes_the_most_ready_tasks,
                        a_history_of_too_many_steps_is_refused,
                        totals_only_grow,
                        a_feed_has_each_end_once_and_oldest_first,
                        a_feed_of_many_ends_gives_the_newest_and_says_so,
                    ]
                    two [
                        notes_are_read_newest_first_and_page_by_page,
                        a_worker_hears_that_it_was_asked_to_drain,
                    ]
                }
                cancel {
                    one [
                        a_cancelled_waiting_task_never_runs,
                        an_end_after_a_cancel_is_recorded_as_it_is,
                        a_finish_that_came_first_wins,
                        a_task_cancelled_while_its_worker_dies_ends_cancelled,
                        a_task_cancelled_while_its_worker_dies_ends_cancelled_without_attempts_left,
                        a_task_cancelled_while_its_worker_leaves_ends_cancelled,
                    ]
                    two [
                        a_running_task_s_worker_is_told_and_a_retry_then_ends_cancelled,
                    ]
                }
                shown {
                    one [
                        a_listing_goes_from_running_to_ended_newest_first,
                        a_listing_is_filtered,
                        a_filter_looks_into_arguments_headers_code_and_time,
                        pages_show_each_task_once,
                        queues_count_their_tasks,
                        every_ended_task_is_listed_and_counted_however_many_ended_after_it,
                        what_leaves_before_its_time_is_neither_listed_nor_counted,
                        a_listing_goes_on_where_it_was_whatever_comes_and_goes,
                        a_page_looks_at_some_thousand_tasks_and_says_where_it_goes_on,
                        a_queue_is_known_while_what_ended_there_is_kept,
                        a_purge_deletes_what_waits_and_nothing_else,
                        a_purge_gives_unique_keys_back,
                        a_check_says_what_the_broker_is,
                    ]
                    with short_results [what_is_over_its_time_is_neither_listed_nor_counted_swept_or_not]
                }
                shared {
                    one [
                        a_silent_worker_is_gone_and_its_catalogue_stays,
                        the_newest_announcement_of_a_body_is_served,
                        what_is_no_number_is_not_incremented,
                        kv_keys_are_listed_in_byte_order_page_by_page,
                    ]
                    two [
                        workers_stand_until_they_retire,
                        kv_keeps_bytes_of_each_plugin,
                        kv_increments_add_up,
                        a_full_kv_takes_no_more_and_says_so,
                    ]
                }
                schedules {
                    one [
                        putting_the_same_rule_again_keeps_its_past,
                        a_definition_that_names_paused_is_as_it_says,
                        a_schedule_that_moves_to_another_queue_goes_on_there_and_there_only,
                        another_rule_does_not_let_a_firing_overlap,
                        a_schedule_that_comes_back_goes_on_from_where_it_was,
                        nothing_fires_too_early,
                        nothing_fires_that_is_not_after_the_last,
                        a_schedule_that_is_gone_changed_or_paused_does_not_fire,
                        a_firing_is_skipped_while_the_last_one_s_task_has_not_ended,
                        a_schedule_remembers_its_firings_skips_and_pauses,
                    ]
                    two [
                        a_schedule_is_kept_by_name,
                        an_operator_s_pause_outlives_another_rule_zone_and_queue,
                        a_due_time_is_fired_once_by_racing_hosts,
                    ]
                }
            }
        }
    };
}

/// One test for each law. A law of `one` takes one handle. A law of `two` takes two handles, as two processes have them. A law `with`
/// settings takes one handle with these settings.
macro_rules! tests {
    ($place:ty; $($room:ident { one [$($law:ident,)*] $(two [$($two:ident,)*])? $(with $settings:ident [$set:ident])* })*) => {
        $(
            $(
                #[tokio::test]
                async fn $law() {
                    let place = <$place as Place>::make().await;
                    super::$room::$law(&*place.open(BrokerSettings::default()).await).await;
                }
            )*
            $($(
                #[tokio::test]
                async fn $two() {
                    let place = <$place as Place>::make().await;
                    let (one, other) = (place.open(BrokerSettings::default()).await, place.open(BrokerSettings::default()).await);
                    super::$room::$two(&*one, &*other).await;
                }
            )*)?
            $(
                #[tokio::test]
                async fn $set() {
                    let place = <$place as Place>::make().await;
                    super::$room::$set(&*place.open(super::$room::$settings()).await).await;
                }
            )*
        )*
    };
}

laws!(sqlite, SqlitePlace);
laws!(redis, RedisServer);
