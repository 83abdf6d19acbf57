"""The tests of jobs that run against the test API server, on a real cluster; each is explained where it is from."""

from tests.faults.test_cluster_faults import test_a_job_deleted_by_someone_else_is_said_so_and_starts_again_when_asked
from tests.jobs.test_kubernetes_jobs import (
    test_a_failed_job_shows_its_reason_and_is_replaced_by_the_next_attempt,
    test_a_setting_that_is_wrong_fails_at_once_with_what_the_worker_said,
    test_an_interrupted_driver_leaves_the_job_running_unless_told_otherwise,
    test_at_a_terminal_the_user_is_asked_about_the_job_that_a_step_left_running,
    test_the_next_driver_attaches_to_the_job_of_a_killed_one,
    test_the_service_of_a_job_that_another_driver_has_just_created_is_left_alone,
    test_two_drivers_of_one_job_both_return_its_result,
    test_two_pods_train_what_two_local_ranks_train_and_leave_nothing_behind,
)

__all__ = [
    "test_a_failed_job_shows_its_reason_and_is_replaced_by_the_next_attempt",
    "test_a_job_deleted_by_someone_else_is_said_so_and_starts_again_when_asked",
    "test_a_setting_that_is_wrong_fails_at_once_with_what_the_worker_said",
    "test_an_interrupted_driver_leaves_the_job_running_unless_told_otherwise",
    "test_at_a_terminal_the_user_is_asked_about_the_job_that_a_step_left_running",
    "test_the_next_driver_attaches_to_the_job_of_a_killed_one",
    "test_the_service_of_a_job_that_another_driver_has_just_created_is_left_alone",
    "test_two_drivers_of_one_job_both_return_its_result",
    "test_two_pods_train_what_two_local_ranks_train_and_leave_nothing_behind",
]
