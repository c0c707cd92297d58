"""The simulator: it finds nothing in the library, and everything in its mutants."""

import subprocess
import sys

import pytest

from agentloop.testing.simulate import CLASSES, Report, shrink, simulate
from agentloop.testing.simulate.__main__ import main
from tests.protocol_mutants import MUTANTS, kills

SEEDS = 1500
KILLERS: dict[str, int] = {
    "finalize_without_comparing_versions": 10,
    "fence_ignores_the_token": 0,
    "fence_takes_the_last_two_tokens": 0,
    "token_does_not_rise": 0,
    "release_keeps_the_token": 7,
    "release_by_anybody": 620,
    "claim_before_the_lease_ran_out": 8,
    "claim_long_after_the_lease_ran_out": 0,
    "checkpoint_does_not_prolong": 8,
    "heartbeat_of_a_lost_lease": 3,
    "repeated_checkpoint_is_kept_again": 7,
    "repeated_checkpoint_is_refused": 7,
    "repeated_finalize_is_refused": 10,
    "cancel_is_not_kept": 3,
    "checkpoint_does_not_tell_of_a_cancel": 3,
    "key_is_not_unique": 3,
    "results_outlive_their_turn": 8,
    "staged_messages_are_seen": 0,
    "recovery_runs_every_call_again": 0,
    "recovery_forgets_the_attempt": 0,
    "recovery_leaves_calls_open": 0,
    "recovery_drops_the_unknown_usage": 0,
    "attempts_are_not_capped": 0,
    "late_answers_of_the_model_are_taken": 0,
    "late_failures_of_calls_are_taken": 6,
    "iterations_are_counted_twice": 0,
    "usage_of_failures_is_dropped": 0,
    "iterations_are_not_limited": 1,
    "calls_stay_open_when_a_run_fails": 1,
    "results_stand_in_no_order": 1,
    "effects_begin_before_the_commit": 0,
    "desk_does_not_hear_of_a_cancel": 3,
    "desk_begins_effects_twice": 0,
    "journal_stages_messages_again": 0,
    "journal_forgets_results": 1,
    "journal_stores_results_again": 1,
    "journal_drops_attempts": 0,
    "journal_repeats_attempts": 0,
    "journal_keeps_its_revision": 0,
    "journal_does_not_try_again": 7,
    "a_lost_race_is_told_as_success": 10,
    "resuming_forgets_what_was_lost": 0,
    "resuming_recovers_nothing": 3,
    "resuming_ignores_that_nothing_began": 0,
    "giving_back_says_nothing_of_it": 7,
    "resuming_a_discovery_forgets_the_options": 27,
    "claim_hands_out_another_revision": 0,
    "claim_leaves_out_results": 5,
    "claim_leaves_out_the_setup": 0,
    "claim_does_not_take_the_lease": 0,
    "heartbeat_does_not_tell_of_a_cancel": 62,
    "heartbeat_does_not_prolong": 7,
    "ended_run_can_be_claimed": 0,
    "base_version_is_not_compared": 4492,
    "cancel_marks_ended_runs": 10,
    "strangers_may_read": 0,
    "first_message_is_dropped": 0,
    "version_rises_by_one_per_run": 0,
    "terminal_event_is_dropped": 0,
    "jobs_are_not_stored": 0,
    "event_ids_begin_anew": 0,
    "setup_is_not_stored": 4,
}
"""The first seed that kills each mutant, as the hunt printed it."""


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """A range of seeds, simulated once."""
    return [simulate(seed) for seed in range(SEEDS)]


def test_no_seed_breaks_an_invariant(reports: list[Report]) -> None:
    """Whatever dies, fails, comes late or races, every invariant holds."""
    found = {r.seed: r.violation for r in reports if r.violation is not None}
    assert found == {}


def test_every_class_of_faults_takes_part(reports: list[Report]) -> None:
    """Each class is met by the hundred, and each kind of end by the score."""
    met = dict.fromkeys(CLASSES, 0)
    for report in reports:
        for class_, _, times in report.faults:
            met[class_] += times
    assert min(met.values()) > 100
    ends = [status for report in reports for status in report.runs]
    for status in ("completed", "failed", "requires_action"):
        assert ends.count(status) > 20, status


def test_both_sides_of_every_driving_call_are_hit(reports: list[Report]) -> None:
    """Claims, heartbeats, checkpoints and ends fail and die before and after."""
    met = {(class_, kind) for r in reports for class_, kind, _ in r.faults}
    for call in ("insert_run", "claim", "heartbeat", "checkpoint", "finalize"):
        for when in ("before", "after"):
            assert ("crash", f"{call} {when}") in met
            assert ("store", f"{call} {when}") in met


def test_a_seed_replays_itself(reports: list[Report]) -> None:
    """The same seed gives the same report, down to the digest of its trace."""
    assert [simulate(seed) for seed in range(100)] == reports[:100]
    assert len({report.trace for report in reports}) == SEEDS


def test_a_seed_replays_itself_in_another_process(reports: list[Report]) -> None:
    """No order of hashes, which differs from process to process, has a say."""
    code = (
        "from agentloop.testing.simulate import simulate\n"
        "print(*[simulate(seed).trace for seed in range(20)])"
    )
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == [report.trace for report in reports[:20]]


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
    assert simulate(KILLERS[name], needed).violation is not None
    for each in needed:
        fewer = [class_ for class_ in needed if class_ != each]
        assert simulate(KILLERS[name], fewer).violation is None


def test_the_command_tells_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    """The hunt prints its range, faults, runs, steps and verdict."""
    assert main(["--seeds", "20", "--start", "7"]) == 0
    told = capsys.readouterr().out
    assert "simulations 20 (seeds 7 to 26)" in told
    assert "violations 0" in told


def test_the_command_fails_on_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that breaks an invariant is printed with what it needs."""
    MUTANTS["effects_begin_before_the_commit"](monkeypatch)
    assert main(["--seeds", "1"]) == 1
    told = capsys.readouterr().out
    assert "seed 0: invariant 10:" in told
    assert "needs no fault at all" in told
