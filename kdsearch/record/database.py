"""Optuna's database storage, made to outlast a restart of the server."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from optuna.storages import RDBStorage

from kdsearch.errors import StoreError

PATIENCE = 300.0
"""Seconds for which a database that is gone (restarted, say) is waited for before the run ends with an error."""


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` tried again while the database cannot be reached."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        deadline, pause = time.monotonic() + PATIENCE, 0.2
        while True:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                if not _gone(error):
                    raise
                if time.monotonic() + pause > deadline:
                    raise StoreError(f"the database of the record has not answered for {PATIENCE:g} s; run again once it does") from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    return call


def _gone(error: BaseException | None) -> bool:
    """Whether the database could not be reached, as against refusing what was asked."""
    while error is not None:
        if type(error).__name__ in ("OperationalError", "InterfaceError", "DisconnectionError"):
            return True
        error = error.__cause__ or error.__context__
    return False


class PatientDatabase(RDBStorage):
    """Optuna's database storage that outlasts a restart of the server. A step that was lost on the way is taken again; the one that
    may then happen twice, a new trial, leaves a RUNNING trial that the next driver closes as interrupted."""


_METHODS = (
    "create_new_study",
    "create_new_trial",
    "get_all_studies",
    "get_all_trials",
    "get_best_trial",
    "get_n_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "_create_new_trial",
    "_get_trials",
    "_set_trial_param",
)
for _name in _METHODS:
    if hasattr(RDBStorage, _name):
        setattr(PatientDatabase, _name, _patient(getattr(RDBStorage, _name)))
