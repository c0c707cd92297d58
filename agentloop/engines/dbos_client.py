"""Starting and cancelling runs on DBOS, without a worker in this process.

Nothing here drives a run.
"""

import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from attrs import field, frozen
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, error
from sqlalchemy.exc import SQLAlchemyError

from agentloop.ports import EngineUnavailableError, RunRef
from agentloop.runtime import checks
from agentloop.wire.converter import SCHEMA_VERSION

T = TypeVar("T")
WORKFLOW: Final = "agentloop.run"
WAKE: Final = "wake"
"""The topic of the message that ends a pause."""
_NAME: Final = re.compile("[a-z0-9_-]{3,256}")
"""What DBOS takes as the name of an application."""
_CONNECT: Final = 5
"""Seconds that a connection may take when the address does not say."""


@frozen
class DbosDatabase:
    """Where DBOS keeps its tables, and what of them is ours.

    Attributes:
        url: `postgresql://user:password@host/database`; that of the store does well.
        schema: of the tables of DBOS, which are not the store's.
        name: what joins those who start runs and those who drive them: the name of
            the application and of its queue. 3 to 256 lowercase letters, digits,
            dashes and underscores. Schema and name are the place that a run belongs
            to for good: no worker of another place drives it.
        poll: seconds between two looks of a worker for runs that were started.
        silence: seconds without a sign of life after which a worker is taken for
            dead; one whose process has ended is dead at once.
    """

    url: str = field(repr=False)
    schema: str = "dbos"
    name: str = "agentloop"
    poll: float = 0.2
    silence: float = 10.0

    def __attrs_post_init__(self) -> None:
        checks.span("poll", self.poll)
        checks.span("silence", self.silence)
        if not self.url.startswith("postgresql://"):
            scheme = self.url.partition("://")[0]
            raise ValueError(
                f"url must begin with postgresql://, not {scheme!r:.40}; workers find "
                "each other by what Postgres knows of them"
            )
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                "the name of a queue on DBOS has 3 to 256 lowercase letters, digits, "
                f"dashes and underscores, unlike {self.name!r:.80}"
            )

    @property
    def driver(self) -> str:
        """What the rows of these runs name as their driver: DBOS, and where on it."""
        return f"dbos:{self.schema}/{self.name}"

    @property
    def address(self) -> str:
        """The url, with a bound on the time that a connection may take."""
        if "connect_timeout=" in self.url:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}connect_timeout={_CONNECT}"

    @property
    def version(self) -> str:
        """The application version: that of the texts that a workflow holds."""
        return f"{self.name}-{SCHEMA_VERSION}"

    def client(self) -> DBOSClient:
        """A client that connects when it is first used, and does not wait for long."""
        return DBOSClient(
            system_database_url=self.address,
            dbos_system_schema=self.schema,
            serializer=DBOSPortableJSONSerializer(),
            application_name=self.name,
            lazy=True,
            retry_connection_errors=False,
        )

    def enqueue(self, client: DBOSClient, run: RunRef) -> None:
        """Have a run driven; of one that has a workflow already, nothing.

        It names this release's version. One without a version would be left to the
        workers of whichever version was seen first last: after a return to an older
        release, to nobody.
        """
        client.enqueue(
            {
                "workflow_name": WORKFLOW,
                "queue_name": self.name,
                "workflow_id": run.run_id,
                "app_version": self.version,
            },
            run.run_id,
            run.company_id,
        )


class DbosEngine:
    """Starts and cancels runs by rows that a worker sees; drives none.

    Nothing is connected before the first call. Shared by all threads.

    Args:
        database: where the workers look.
    """

    def __init__(self, database: DbosDatabase) -> None:
        self._database = database
        self._client: DBOSClient | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the rows of its runs name as their driver."""
        return self._database.driver

    def migrate(self) -> None:
        """Make the tables of DBOS, or bring them to the installed release's form.

        A worker does so as well when it starts.

        Raises:
            EngineUnavailableError: Postgres could not answer.
        """
        database = self._database
        self._asked(lambda: DBOS.migrate(database.address, schema=database.schema))

    def start(self, run: RunRef) -> None:
        """Have a run driven; of one that was started already nothing changes.

        Raises:
            EngineUnavailableError: Postgres did not acknowledge.
        """
        self._asked(lambda: self._database.enqueue(self._opened(), run))

    def cancel(self, run: RunRef) -> None:
        """End the pause of a run, so that it sees its flag in the store.

        Raises:
            EngineUnavailableError: Postgres did not acknowledge.
        """
        client = self._opened()
        try:
            self._asked(lambda: client.send(run.run_id, "cancel", WAKE))
        except error.DBOSNonExistentWorkflowError:
            return  # it was not started, or is long gone

    def close(self) -> None:
        """Give back the connections; a later call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.destroy()

    def __enter__(self) -> "DbosEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> DBOSClient:
        with self._lock:
            if self._client is None:
                self._client = self._database.client()
            return self._client

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except SQLAlchemyError as problem:
            told = str(getattr(problem, "orig", None) or problem).partition("\n")[0]
            raise EngineUnavailableError(
                f"DBOS in schema {self._database.schema!r}: {told}; where its tables "
                "are missing, call migrate()"
            ) from None
