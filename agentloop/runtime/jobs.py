"""Inference jobs as resources, with the exact request that each of them made.

A request is not stored: it is encoded again from what it was made of, and the digest
that was kept of the bytes that went out says whether it is the same.
"""

import hashlib

from attrs import evolve, frozen

from agentloop.core.catalog import RequestError
from agentloop.core.config import ToolChoice
from agentloop.core.phases import Infer, Log
from agentloop.core.routing import assemble
from agentloop.core.run import InferenceJob, Scope
from agentloop.ports import (
    AttemptRow,
    JobContext,
    JobRow,
    Reader,
    RunRow,
    SessionSetup,
    Store,
)
from agentloop.runtime import present
from agentloop.runtime.callers import Visible, check_id
from agentloop.runtime.prepare import Resources
from agentloop.wire import WireError, load, message_from, undump
from agentloop.wire.checkpoint import setup_from, unversioned


@frozen
class Jobs:
    """The inference jobs of one loop's runs."""

    resources: Resources
    visible: Visible

    @property
    def _store(self) -> Store:
        return self.resources.store

    def get(self, job_id: str, scope: Scope) -> InferenceJob:
        """A job with its exact request and response (contract section 12)."""
        check_id("job_id", job_id, "inference-job-not-found")
        found = self._store.get_job(self.visible.reader(scope), job_id)
        if found is None:
            raise RequestError("inference-job-not-found")
        job_row, attempts, run_row = found
        job = present.job(job_row, attempts, run_row)
        try:
            body = self._request(job_row, run_row, attempts)
            request = undump(body.decode())
        except (WireError, LookupError, RequestError, ValueError):
            return job
        sent = {unversioned(row.body).get("request_sha256") for row in attempts}
        digest = hashlib.sha256(body).hexdigest()
        return evolve(
            job,
            request=request,
            request_verified=digest in sent if sent - {None} else None,
        )

    def of_run(self, run_id: str, scope: Scope) -> tuple[InferenceJob, ...]:
        """The jobs of a run by iteration, with their requests and responses."""
        self.visible.run(run_id, scope)
        rows = self._store.list_jobs(self.visible.reader(scope), run_id)
        return tuple(self.get(row.id, scope) for row in rows)

    def _request(
        self, job: JobRow, run: RunRow, attempts: tuple[AttemptRow, ...]
    ) -> bytes:
        """The request of a job, encoded again from what it was made of."""
        config = present.config_of(run)
        reader = Reader(run.company_id)
        row = self._store.get_conversation(reader, run.conversation_id)
        page = self._store.messages(reader, run.conversation_id, until=run.base_version)
        setup = self._store.run_setup(run.id)
        if row is None or page is None or setup is None:
            raise LookupError(job.id)
        catalogs = setup_from(setup).catalogs
        session = self.resources.choose_backend(config).session(
            SessionSetup(
                config=config,
                system=present.body_of(row).system_prompt,
                specs=assemble(config, catalogs).specs,
                history=tuple(message_from(r.body) for r in page.rows),
            )
        )
        facts = unversioned(job.body)
        texts = self._store.run_messages(run.id)[: facts["messages"]]
        choice: ToolChoice = load(facts["tool_choice"], ToolChoice)
        number = attempts[-1].number if attempts else 1
        sent = unversioned(attempts[-1].body) if attempts else {}
        context = JobContext(job_id=job.id, streamed=bool(sent.get("streamed")))
        log = Log(*map(message_from, texts))
        command = Infer(job.iteration, number, 0.0, 0.0, choice, log)
        return session.request(command, context)
