"""The simulator: it finds nothing in the library, and everything in its mutants."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from agentloop.testing.simulate import (
    CLASSES,
    Hunt,
    Progress,
    Scale,
    Totals,
    shrink,
    simulate,
)
from agentloop.testing.simulate.__main__ import main
from agentloop.testing.simulate.stores import CALLS
from tests.protocol_mutants import MUTANTS, kills

pytestmark = pytest.mark.timeout(1200)  # whoever comes first simulates all seeds
SEEDS = 20_000
KILLERS: dict[str, int] = {
    "finalize_without_comparing_versions": 8,
    "fence_ignores_the_token": 0,
    "fence_takes_the_last_two_tokens": 4,
    "token_does_not_rise": 0,
    "release_keeps_the_token": 0,
    "release_by_anybody": 18,
    "claim_before_the_lease_ran_out": 0,
    "claim_long_after_the_lease_ran_out": 0,
    "checkpoint_does_not_prolong": 0,
    "heartbeat_of_a_lost_lease": 0,
    "repeated_checkpoint_is_kept_again": 8,
    "repeated_checkpoint_is_refused": 8,
    "repeated_finalize_is_refused": 26,
    "cancel_is_not_kept": 3,
    "checkpoint_does_not_tell_of_a_cancel": 9,
    "key_is_not_unique": 0,
    "results_outlive_their_turn": 6,
    "staged_messages_are_seen": 0,
    "recovery_runs_every_call_again": 0,
    "recovery_forgets_the_attempt": 0,
    "recovery_leaves_calls_open": 0,
    "recovery_drops_the_unknown_usage": 0,
    "attempts_are_not_capped": 4,
    "late_answers_of_the_model_are_taken": 6,
    "late_failures_of_calls_are_taken": 17,
    "iterations_are_counted_twice": 0,
    "usage_of_failures_is_dropped": 2,
    "iterations_are_not_limited": 8,
    "calls_stay_open_when_a_run_fails": 0,
    "results_stand_in_no_order": 2,
    "effects_begin_before_the_commit": 0,
    "desk_does_not_hear_of_a_cancel": 47,
    "desk_begins_effects_twice": 0,
    "journal_stages_messages_again": 0,
    "journal_forgets_results": 2,
    "journal_stores_results_again": 15,
    "journal_drops_attempts": 0,
    "journal_repeats_attempts": 0,
    "journal_keeps_its_revision": 0,
    "journal_does_not_try_again": 6,
    "a_lost_race_is_told_as_success": 8,
    "resuming_forgets_what_was_lost": 0,
    "resuming_recovers_nothing": 0,
    "resuming_ignores_that_nothing_began": 0,
    "giving_back_says_nothing_of_it": 5,
    "resuming_a_discovery_forgets_the_options": 5,
    "claim_hands_out_another_revision": 0,
    "claim_leaves_out_results": 17,
    "claim_leaves_out_the_setup": 0,
    "claim_does_not_take_the_lease": 0,
    "heartbeat_does_not_tell_of_a_cancel": 42,
    "heartbeat_does_not_prolong": 2,
    "ended_run_can_be_claimed": 0,
    "base_version_is_not_compared": 586,
    "cancel_marks_ended_runs": 0,
    "strangers_may_read": 0,
    "first_message_is_dropped": 0,
    "version_rises_by_one_per_run": 0,
    "terminal_event_is_dropped": 0,
    "jobs_are_not_stored": 0,
    "event_ids_begin_anew": 0,
    "setup_is_not_stored": 0,
    "what_was_remembered_is_not_handed_on": 0,
    "a_failed_memory_is_the_fault_of_the_backend": 378,
    "effects_put_back_stay_under_way": 24,
    "queued_effects_begin_after_the_end": 25,
    "usage_loses_completion_tokens": 0,
    "strangers_see_events": 0,
    "strangers_are_told_the_number": 0,
    "errors_of_tools_are_told_whole": 1,
    "claims_in_vain_are_not_counted": 0,
    "leases_go_by_the_wall_clock": 16,
    "a_late_success_wins_over_a_cancel": 710,
    "a_cancel_heard_while_remembering_is_lost": 710,
    "deadlines_are_not_looked_at": 47,
    "effects_may_outlast_their_run": 47,
    "calls_may_take_for_ever": 0,
    "failures_for_good_are_tried_again": 2,
    "retries_follow_at_once": 20,
    "hints_of_providers_are_ignored": 40,
    "deleted_runs_stay": 1,
    "deleted_jobs_stay": 2,
    "strangers_may_delete": 32,
    "pruning_takes_fresh_keys": 6,
    "pruning_takes_open_runs": 15,
    "pruning_keeps_keys": 37,
    "pruning_takes_messages": 31,
    "events_are_told_again": 17,
    "jobs_show_the_attempts_of_others": 0,
    "ended_runs_are_not_listed": 4,
}
"""The first seed that kills each mutant, as the hunt printed it."""


@pytest.fixture(scope="module")
def totals() -> Totals:
    """A range of seeds, simulated once, in two processes."""
    return Hunt(seeds=SEEDS, jobs=2).run()


def test_no_seed_breaks_an_invariant(totals: Totals) -> None:
    """Whatever dies, fails, comes late or races, every invariant holds."""
    assert totals.broken == {}
    assert totals.simulations == SEEDS


def test_every_class_of_faults_takes_part(totals: Totals) -> None:
    """Each class is met by the thousand, and each kind of end as well."""
    met = totals.by_class()
    assert met.keys() == set(CLASSES)
    assert min(met.values()) > 1000
    for status in ("completed", "failed", "requires_action", "removed"):
        assert totals.runs[status] > 1000, status


@pytest.mark.parametrize("call", CALLS)
def test_both_sides_of_every_call_are_hit(totals: Totals, call: str) -> None:
    """Each call on the store fails and dies, before and after it commits."""
    for when in ("before", "after"):
        assert totals.faults["crash", f"{call} {when}"] > 30
        assert totals.faults["store", f"{call} {when}"] > 30


def test_a_seed_replays_itself() -> None:
    """The same seed gives the same report, down to the digest of its trace."""
    reports = [simulate(seed) for seed in range(100)]
    assert [simulate(seed) for seed in range(100)] == reports
    assert len({report.trace for report in reports}) == 100


def test_the_number_of_processes_has_no_say() -> None:
    """One process comes to the same as two, down to the fingerprint of all traces."""
    assert (
        Hunt(start=5, seeds=350, jobs=1).run() == Hunt(start=5, seeds=350, jobs=2).run()
    )


@pytest.mark.parametrize("seed", [639_779, 716_527])
def test_a_client_may_come_a_day_late(seed: int) -> None:
    """Its key is pruned by then, and the ids it answers are others' calls.

    In a million seeds these two accused the library, of an answer that is right.
    """
    assert simulate(seed).steps > 0


def test_a_hunt_out_of_time_has_simulated_the_first_seeds() -> None:
    """What was begun is a range without gaps, and it is told how far it came."""
    heard: list[Progress] = []
    part = Hunt(start=3, seeds=10**6, minutes=0.0, tell=heard.append).run()
    assert part == Hunt(start=3, seeds=part.simulations).run()
    assert [progress.done for progress in heard] == [part.simulations]


def test_a_seed_replays_itself_in_another_process() -> None:
    """No order of hashes, which differs from process to process, has a say."""
    code = (
        "from agentloop.testing.simulate import simulate\n"
        "print(*[simulate(seed).trace for seed in range(20)])"
    )
    here = [simulate(seed).trace for seed in range(20)]
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == here


def test_without_faults_nothing_is_injected() -> None:
    """A simulation without any class of faults meets none, and ends as well."""
    for seed in range(50):
        report = simulate(seed, ())
        assert report.violation is None
        assert report.faults == ()


def test_every_mutant_has_a_killer() -> None:
    """The table of recorded seeds covers all mutants and no others."""
    assert KILLERS.keys() == MUTANTS.keys()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_recorded_seed_kills_the_mutant(name: str) -> None:
    """A broken rule is noticed, and the rule unbroken passes under that seed."""
    assert kills(name, KILLERS[name]) is not None
    assert simulate(KILLERS[name]).violation is None


def test_a_failing_seed_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What remains after shrinking still fails, and nothing of it can be spared."""
    name = "finalize_without_comparing_versions"
    MUTANTS[name](monkeypatch)
    needed = shrink(KILLERS[name])
    assert needed.fails(KILLERS[name])
    for each in needed.classes:
        fewer = tuple(class_ for class_ in needed.classes if class_ != each)
        assert not evolve(needed, classes=fewer).fails(KILLERS[name])
    assert needed.scale.workers < Scale().workers
    assert needed.scale.clients < Scale().clients
    for part in ("workers", "clients", "keys"):
        for less in range(1, getattr(needed.scale, part)):
            scale = evolve(needed.scale, **{part: less})
            assert not evolve(needed, scale=scale).fails(KILLERS[name])
    assert needed.scale.storm < Scale().storm


def test_the_command_tells_what_it_did(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The hunt prints its range, progress and verdict, and keeps all figures."""
    file = tmp_path / "figures.json"
    command = ["--seeds", "20", "--start", "7", "--jobs", "1", "--json", str(file)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "simulations 20 (seeds 7 to 26)" in told.out
    assert "violations 0" in told.out
    assert "20 of 20 simulations" in told.err
    figures = json.loads(file.read_text())
    assert (figures["start"], figures["simulations"]) == (7, 20)
    assert figures["broken"] == {}
    assert figures["fingerprint"] in told.out


def test_the_command_fails_on_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that breaks an invariant is printed with what it needs."""
    MUTANTS["effects_begin_before_the_commit"](monkeypatch)
    assert main(["--seeds", "1", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"seed 0 at commit \S+: invariant \d+: ", told)
    assert "needs no fault at all" in told
