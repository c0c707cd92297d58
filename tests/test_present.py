"""Ids derived from rows."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from agentloop.ports import derived_id, effect_key
from agentloop.runtime.present import job_id

NAMESPACE = uuid.UUID("6f0c6a0e-5d0f-5b52-9d0b-2f6f0b1c9a31")


@given(st.text(), st.text())
def test_a_derived_id_is_the_uuid_of_its_name(run_id, place):
    """Put together by hand, it is what the standard library would make."""
    assert derived_id(run_id, place) == str(uuid.uuid5(NAMESPACE, f"{run_id}/{place}"))


def test_ids_of_jobs_and_calls_stay_what_they_were():
    """Stored jobs and keys known to tools are found again by any later release."""
    run = "11111111-2222-4333-8444-555555555555"
    assert job_id(run, 1) == str(uuid.uuid5(NAMESPACE, f"{run}/job/1"))
    assert effect_key(run, "1.0") == str(uuid.uuid5(NAMESPACE, f"{run}/call/1.0"))
