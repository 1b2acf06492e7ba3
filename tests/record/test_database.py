"""A database that restarts is waited for by whatever a search asks of it."""

from __future__ import annotations

import inspect
import re

from optuna.storages import _CachedStorage

from kdsearch.record.database import PatientDatabase

NEVER_ASKED = {"delete_study", "_get_best_trial_id"}


def test_all_that_optuna_s_cache_asks_of_a_database_is_patient() -> None:
    asked = set(re.findall(r"_backend\.(\w+)\(", inspect.getsource(_CachedStorage))) - NEVER_ASKED
    asked = {name for name in asked if "heartbeat" not in name and "stale" not in name}
    assert {"_create_new_trial", "_set_trial_param", "_get_trials", "get_trial"} <= asked
    assert [name for name in sorted(asked) if not hasattr(getattr(PatientDatabase, name), "__wrapped__")] == []
