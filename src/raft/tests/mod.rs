//! What the consensus machine promises, one test a promise.
//!
//! The claims of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended
//! version, 2014) and, where the section has a `D`, of Ongaro's dissertation (2014), each with the tests that fail where
//! it doesn't hold. A test is named by its file here and its function; tests elsewhere by their module. `tests/tidy.rs`
//! holds that each of them exists. Claims about stable storage have no test: an identity here is one life of a process.
//!
//! | section | claim | test |
//! |---|---|---|
//! | 5.1 | a request of an earlier term is refused, and told the later one | `elections::terms_a_request_of_an_earlier_term_is_refused_and_changes_nothing`, `planes::a_deposed_leaders_messages_are_answered_with_the_term_that_deposed_it` |
//! | 5.1 | a later term makes a leader or a candidate a follower | `elections::terms_a_later_term_makes_a_leader_and_a_candidate_followers` |
//! | 5.2 | servers start as followers, and stay so while they hear from a leader | `elections::servers_start_as_followers_and_stay_so_while_they_hear_from_a_leader`, `planes::an_append_counts_as_a_heartbeat` |
//! | 5.2 | a vote that was granted starts the wait anew | `elections::granting_a_vote_starts_the_wait_anew_and_refusing_one_does_not` |
//! | 5.2 | an election timeout starts a campaign: a new term, its own vote, requests to all others | `elections::an_election_timeout_starts_a_campaign_in_a_new_term_with_its_own_vote_and_a_request_to_every_other`, `golden::an_election` |
//! | 5.2 | one vote a term, first come first served: at most one leader a term | `paper::election_safety_a_voter_votes_once_a_term_and_repeats_its_answer` |
//! | 5.2 | a majority of all makes a leader | `elections::a_candidate_leads_once_a_majority_of_all_has_voted_for_it` |
//! | 5.2 | a new leader sends heartbeats to all at once, and repeats them | `elections::a_new_leader_tells_all_others_at_once_and_goes_on_telling_them` |
//! | 5.2 | a candidate follows a leader of its term or a later one, and refuses one of an earlier | `elections::a_candidate_follows_a_leader_of_its_own_term_or_a_later_one_and_refuses_one_of_an_earlier` |
//! | 5.2 | a candidate that neither wins nor loses tries again in a new term | `elections::a_candidate_without_a_majority_in_time_tries_again_in_a_new_term` |
//! | 5.2 | random waits keep split votes rare and end them soon | `elections::each_wait_for_a_leader_is_drawn_anew_from_the_same_interval`, `elections::split_votes_end_by_a_new_term_and_other_waits`, `planes::a_vote_that_is_split_is_tried_again_after_the_random_part_alone` |
//! | 5.3 | an entry is committed once a majority has it, and all before it with it, in order | `paper::an_entry_is_committed_once_a_majority_has_it_and_all_before_it_go_first` |
//! | 5.3 | appends go out in parallel; one slow follower holds up nothing | `planes::appends_are_sent_without_waiting_but_only_so_many`, `planes::one_live_follower_of_two_is_contact_enough` |
//! | 5.3 | a leader repeats appends without end, though the client has its answer | `paper::a_leader_offers_entries_without_end_to_one_who_lacks_them_though_they_are_committed` |
//! | 5.3 | followers learn of the commit index, by heartbeats too | `paper::a_follower_commits_only_through_what_the_append_covers`, `planes::a_heartbeat_commits_what_it_names_as_shared_and_no_more` |
//! | 5.3 | an append that builds on a missing entry is refused | `paper::log_matching_an_append_that_builds_on_a_missing_entry_is_answered_with_what_is_there` |
//! | 5.3 | conflicting entries are replaced by the leader's | `paper::log_matching_a_conflicting_entry_goes_with_all_that_follow_it`, `paper::what_only_a_deposed_leader_has_is_replaced` |
//! | 5.3 | figure 7: every log becomes the leader's | `paper::figure_7_a_leader_makes_each_of_the_logs_equal_to_its_own` |
//! | 5.3 | conflicts are found by the first entry of the conflicting term | `paper::repair_takes_one_round_trip_for_each_term_in_which_the_logs_differ`, `golden::a_log_repair` |
//! | 5.3 | a leader only appends | `paper::leader_append_only_nothing_makes_a_leader_change_its_own_log` |
//! | 5.4.1 | votes go only to candidates whose log is as recent | `paper::votes_go_only_to_candidates_whose_log_is_as_recent` |
//! | 5.4.2 | figure 8: only entries of the own term are committed by counting | `paper::figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting` |
//! | 5.4.3 | leader completeness, state machine safety | `paper::leader_completeness_and_state_machine_safety_through_a_chain_of_leaders`, `random::whatever_fails_nothing_unsafe_happens_and_once_it_is_repaired_work_goes_on` |
//! | 5.5 | requests are repeated while one is down | `planes::a_candidate_asks_again_until_it_is_decided_and_only_those_who_have_not_granted`, `planes::an_append_that_was_lost_is_noticed_by_the_ack_and_else_by_the_clock` |
//! | 5.5 | requests are idempotent | `paper::requests_that_come_twice_are_answered_twice_and_done_once`, `paper::an_old_append_takes_away_nothing_that_came_after_it`, `planes::an_old_or_doubled_heartbeat_changes_nothing_and_extends_no_timer` |
//! | 5.6 | heartbeats are well within the election timeout | `elections::times_that_leave_no_room_for_a_lost_heartbeat_are_refused`, `planes::with_a_third_of_the_datagrams_lost_doubled_and_reordered_the_first_leader_stays` |
//! | 6 | a membership is in force when it is appended, and no more when that is undone | `changes::members_change_after_an_own_entry_is_committed_and_one_at_a_time`, `changes::truncation_brings_the_membership_before_back` |
//! | 6 | joint: commits take both majorities | `changes::a_joint_membership_commits_by_both_majorities_and_then_its_end_is_appended`, `golden::a_change_of_members` |
//! | 6 | joint: elections take both majorities | `changes::a_joint_election_takes_both_majorities` |
//! | 6 | joint: any server of either set may lead, and entries go to all of both | `changes::any_server_of_either_set_may_lead_and_sends_to_all_of_both` |
//! | 6 | a change outlives the leader that began it | `changes::a_new_leader_ends_the_change_that_its_predecessor_began` |
//! | 6 | new servers catch up without a vote | `changes::learners_get_everything_and_count_for_nothing`, `changes::who_is_to_vote_must_have_this_terms_log`, `changes::a_process_that_was_told_nothing_takes_the_log_and_has_no_say` |
//! | 6 | a leader that isn't in the new set doesn't count itself, and steps down at its commit | `changes::a_leader_that_takes_itself_out_leads_without_counting_itself_until_that_is_committed` |
//! | 6 | removed servers disturb nobody | `changes::a_voter_that_was_taken_out_is_told_and_disturbs_nobody`, `changes::a_voter_that_was_taken_out_while_it_was_cut_off_disturbs_nobody_when_it_comes_back`, `planes::who_heard_from_a_leader_votes_for_nobody_and_takes_over_no_term` |
//! | D 4.1 | one change at a time, after an entry of the own term | `changes::members_change_after_an_own_entry_is_committed_and_one_at_a_time` |
//! | 7 | everybody compacts by itself, and only what is committed | `paper::a_follower_compacts_by_itself_and_appends_that_build_on_what_is_gone_match`, `paper::only_what_is_committed_is_compacted` |
//! | 7 | a snapshot has the index and term of its last entry, and the membership there | `paper::a_snapshot_replaces_a_log_that_does_not_reach_it`, `paper::a_snapshot_carries_the_membership_of_its_own_place` |
//! | 7 | one who lacks what is gone gets the snapshot | `paper::one_who_missed_what_is_compacted_gets_a_snapshot_and_then_the_rest_though_connections_break`, `paper::a_snapshot_that_is_not_answered_is_sent_again_with_more_patience` |
//! | 7 | what follows a snapshot of a prefix is kept | `paper::a_snapshot_of_what_is_there_already_only_tells_that_it_is_committed` |
//! | 7 | a snapshot that contradicts the log replaces all of it | `paper::a_snapshot_that_contradicts_the_log_replaces_all_of_it` |
//! | D 3.10 | transfer: no proposals are taken; the target wins with everything | `planes::transfer_the_heir_takes_over_at_once_with_everything_and_promises_do_not_hinder_it`, `golden::a_transfer` |
//! | D 3.10 | transfer: the target is caught up before it is told | `planes::a_transfer_waits_until_the_heir_has_the_whole_log_and_is_then_no_base_for_leases` |
//! | D 3.10 | transfer: the target campaigns without waiting | `planes::only_the_present_leaders_word_that_is_not_void_starts_a_campaign` |
//! | D 3.10 | transfer: given up after an election timeout | `planes::a_transfer_is_given_up_after_an_election_timeout_and_what_is_left_of_it_made_void`, `planes::a_leader_whose_heir_falls_silent_steps_down_so_that_a_new_term_makes_the_hand_over_void` |
//! | D 4.2.3, 3.10 | who hears a leader refuses votes, unless the leader itself asked for them | `planes::a_leader_in_contact_refuses_and_keeps_the_promise_when_it_leads_no_more`, `planes::a_vote_that_the_old_leader_asked_for_breaks_a_promise_but_not_the_rule_about_logs` |
//! | D 6.2 | a leader without a quorum for an election timeout steps down | `planes::check_quorum_a_leader_without_contact_steps_down_within_the_election_timeout`, `changes::check_quorum_takes_both_majorities_while_joint` |
//! | D 6.4 | reads wait until an entry of the leader's own term is committed | `planes::a_new_leader_is_ready_once_an_own_entry_is_committed`, `paper::the_first_entry_of_all_states_the_membership_and_the_first_of_later_terms_nothing` |
//! | D 6.4.1 | a lease counts from when the acked heartbeats were sent | `planes::contact_is_the_send_time_of_what_was_acked_and_late_acks_do_not_count_for_more`, `control::lease::a_lease_counts_from_the_holders_question_and_ends_with_the_leaders_contact` |
//! | D 6.4.1 | nobody else leads while a lease may be valid | `planes::while_a_leader_that_is_cut_off_counts_on_its_lease_nobody_else_leads`, `control::lease::a_leader_without_recent_contact_grants_nothing` |
//! | D 6.4.1 | no lease while a transfer may force an election | `planes::a_transfer_waits_until_the_heir_has_the_whole_log_and_is_then_no_base_for_leases` |
//! | D 9.6 | a pre-vote raises no term and changes nothing | `paper::a_pre_vote_is_granted_only_for_a_later_term_and_changes_nothing` |
//! | D 9.6 | a pre-vote is granted only to a log as recent, and by nobody who hears a leader | `paper::votes_go_only_to_candidates_whose_log_is_as_recent`, `planes::who_heard_from_a_leader_votes_for_nobody_and_takes_over_no_term` |
//! | D 9.6 | a node that was cut off disturbs nobody when it returns | `planes::pre_vote_a_node_that_was_cut_off_disturbs_nobody_when_it_comes_back` |

mod changes;
mod elections;
mod golden;
mod hostile;
mod lone;
mod paper;
mod planes;
mod random;
