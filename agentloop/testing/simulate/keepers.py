"""Who looks on and who tidies up: readers of everything, deleters and pruners.

They call the service as a host does. What they are told is judged with every answer
of the store; here is only what a refusal may mean: that a thing is gone, or is another
company's.
"""

from attrs import define

from agentloop.core.catalog import RequestError
from agentloop.core.run import Scope
from agentloop.ports import StoreUnavailableError
from agentloop.runtime.service import Service
from agentloop.stores.clock import instant
from agentloop.testing.simulate.actors import Stage, Steps
from agentloop.testing.simulate.ledger import Ledger, require

_ABSENT = {
    "conversation-not-found",
    "agent-run-not-found",
    "inference-job-not-found",
}
_FAR_FUTURE = "9999-01-01T00:00:00Z"


@define
class Onlooker:
    """Lists and reads whatever there is, as one company or the other."""

    stage: Stage
    service: Service
    scope: Scope

    def steps(self) -> Steps:
        """Read a run and its conversation now and then, as long as faults are about."""
        chance = self.stage.chance
        while not chance.calm:
            yield "watching"
            ledgers = list(self.stage.witness.runs.values())
            if not ledgers:
                continue
            ledger = chance.pick(ledgers)
            try:
                self._read(ledger)
            except StoreUnavailableError:
                continue
            except RequestError as refusal:
                self._check(refusal, ledger)

    def wakes(self, at: str) -> bool:  # noqa: ARG002 # it idles at one point only
        """The mood for it."""
        return self.stage.chance.often(0.25)

    def _read(self, ledger: Ledger) -> None:
        row, service, scope = ledger.inserted, self.service, self.scope
        number = self.stage.chance.number
        match number(0, 5):
            case 0:
                service.list_conversations(scope, 1, number(1, 3))
            case 1:
                service.list_runs(row.conversation_id, scope)
            case 2:
                service.events(row.id, number(0, 6), scope)
            case 3:
                service.messages(row.conversation_id, number(0, 4), scope)
            case _:
                service.list_jobs(row.id, scope)

    def _check(self, refusal: RequestError, ledger: Ledger) -> None:
        self.stage.chance.note(refusal.slug)
        foreign = ledger.inserted.company_id != self.scope.company_id
        absent = refusal.slug in _ABSENT and (foreign or ledger.gone)
        require(absent, 18, f"a reader of {ledger.inserted.id} met {refusal!r}")


@define
class Keeper:
    """Prunes runs as early as it may, and deletes conversations that are in use."""

    stage: Stage
    service: Service

    def steps(self) -> Steps:
        """Remove something now and then, as long as faults are about."""
        chance = self.stage.chance
        while not chance.calm:
            yield "watching"
            try:
                if chance.often(0.7):
                    self._prune()
                else:
                    self._delete()
            except StoreUnavailableError:
                continue

    def wakes(self, at: str) -> bool:  # noqa: ARG002 # it idles at one point only
        """The mood for it."""
        return self.stage.chance.often(0.03)

    def _prune(self) -> None:
        clock, chance = self.stage.clock, self.stage.chance
        before = _FAR_FUTURE if chance.often(0.5) else instant(clock.now())
        if self.service.store.prune(before):
            chance.count("removal", "prune")

    def _delete(self) -> None:
        shelves, chance = self.stage.witness.shelves, self.stage.chance
        id_ = chance.pick(list(shelves))
        company = chance.number(1, 2)
        try:
            self.service.delete_conversation(id_, Scope(company, 1))
            chance.count("removal", "delete")
        except RequestError as refusal:
            foreign = company != shelves[id_].company_id
            absent = refusal.slug in _ABSENT and (foreign or shelves[id_].gone)
            require(absent, 18, f"who deletes {id_} met {refusal!r}")
