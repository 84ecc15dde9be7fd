"""An Optuna storage on a PostgreSQL server whose calls outlive an outage."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import SQLAlchemyError

from busi_search.search.store.connection import engine_options, persistently
from busi_search.search.store.locks import ServerLock


def _repeated(name: str) -> Any:
    """Return a method that calls the storage within, again and again while the server is away."""

    def call(self: "RetryingStorage", *args: Any, **options: Any) -> Any:
        method: Callable[..., Any] = getattr(self.within, name)
        return persistently(partial(method, *args, **options), self.forget_session)

    call.__name__ = name
    return call


class RetryingStorage(BaseStorage):
    """Repeats every call to a server's storage while the server is away.

    A call that was done but whose answer was lost is done twice: attributes are written with the
    same value, a second end of a trial is refused, and a trial created twice is found by
    :func:`~busi_search.search.store.queue.put_back_lost`, for nobody owns it.

    Attributes:
        within: the storage whose calls are repeated: Optuna's, with its cache.
    """

    def __init__(self, server: RDBStorage) -> None:
        """Take the storage on the server."""
        self._server = server
        self.within = get_storage(server)

    create_new_study = _repeated("create_new_study")
    delete_study = _repeated("delete_study")
    set_study_user_attr = _repeated("set_study_user_attr")
    set_study_system_attr = _repeated("set_study_system_attr")
    get_study_id_from_name = _repeated("get_study_id_from_name")
    get_study_name_from_id = _repeated("get_study_name_from_id")
    get_study_directions = _repeated("get_study_directions")
    get_study_user_attrs = _repeated("get_study_user_attrs")
    get_study_system_attrs = _repeated("get_study_system_attrs")
    get_all_studies = _repeated("get_all_studies")
    create_new_trial = _repeated("create_new_trial")
    set_trial_param = _repeated("set_trial_param")
    get_trial_id_from_study_id_trial_number = _repeated("get_trial_id_from_study_id_trial_number")
    get_trial_number_from_id = _repeated("get_trial_number_from_id")
    get_trial_param = _repeated("get_trial_param")
    set_trial_state_values = _repeated("set_trial_state_values")
    set_trial_intermediate_value = _repeated("set_trial_intermediate_value")
    set_trial_user_attr = _repeated("set_trial_user_attr")
    set_trial_system_attr = _repeated("set_trial_system_attr")
    get_trial = _repeated("get_trial")
    get_all_trials = _repeated("get_all_trials")
    get_n_trials = _repeated("get_n_trials")
    get_best_trial = _repeated("get_best_trial")
    get_trial_params = _repeated("get_trial_params")
    get_trial_user_attrs = _repeated("get_trial_user_attrs")
    get_trial_system_attrs = _repeated("get_trial_system_attrs")

    def remove_session(self) -> None:
        """Give back the calling thread's connection."""
        self._server.remove_session()

    def forget_session(self) -> None:
        """Start again with the next call; this one died with its connection."""
        try:
            self._server.remove_session()
        except SQLAlchemyError:
            # It tried to roll back over that connection.
            self._server.scoped_session.registry.clear()

    def server_seconds(self) -> float:
        """Return the time by the server's clock, in seconds since 1970.

        The clocks of several machines differ; this one is the same for all.
        """
        return persistently(self._ask_for_seconds)

    def _ask_for_seconds(self) -> float:
        question = sqlalchemy.text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")
        with self._server.engine.connect() as connection:
            return float(connection.execute(question).scalar_one())


@functools.cache
def server_storage(url: str) -> RetryingStorage:
    """Open a server's storage once in a process.

    Each has connections of its own, which go back to the server long after the last use; whoever
    asks for a study again and again would take all that the server has.
    """
    # Whoever comes first makes the tables; two at once would both fail.
    with ServerLock(url, "tables"):
        return RetryingStorage(RDBStorage(url, engine_kwargs=engine_options()))
