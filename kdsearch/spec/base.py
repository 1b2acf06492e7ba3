"""The frozen pydantic base of everything that is read from a file, and its number types."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict


class FieldProblem(ValueError):
    """A rule that one field breaks, found by a validator of the model around it: carries the path of that field."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class Frozen(BaseModel):
    """Immutable; unknown keys are refused; strings are not taken for numbers; NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def _integral(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


Real = Annotated[float, Strict()]
"""A number; neither a string that looks like one nor true or false."""
Whole = Annotated[int, Strict(), BeforeValidator(_integral)]
"""A whole number; ``1e3`` counts as one."""
Flag = Annotated[bool, Strict()]
"""true or false."""


def outside_key() -> dict[str, Any]:
    """Mark a field that does not change what is trained (a path, say), so that it is left out of keys."""
    return {"kdsearch_key": False}


def since(historic: Any) -> dict[str, Any]:
    """Mark a field added later: it is left out of keys at its ``historic`` value, so old keys stay as they were."""
    return {"kdsearch_historic": historic}
