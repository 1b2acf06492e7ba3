"""The frozen pydantic base of everything that is read from a file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable; unknown keys are refused; strings are not taken for numbers; NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False, validate_default=True)


def outside_key() -> dict[str, Any]:
    """Mark a field that does not change what is trained (a path, say), so that it is left out of keys."""
    return {"kdsearch_key": False}


def since(historic: Any) -> dict[str, Any]:
    """Mark a field added later: it is left out of keys at its ``historic`` value, so old keys stay as they were."""
    return {"kdsearch_historic": historic}
