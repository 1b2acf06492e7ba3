"""A user's own network or data set, named ``package.module:function``.

Whether it may run at all is asked where a file is read (``--allow-code``): a recipe that reached the trainer was allowed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from kdsearch.errors import SpecError


def user_function(name: str) -> Callable[..., Any]:
    """The function ``package.module:function``, installed or beside where the command runs.

    Raises :class:`SpecError` where there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError(
            f"cannot import {module_name}: {error}", hint="it is looked for among installed packages and in this folder"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SpecError(f"{module_name} has no function {function_name}")
    return cast(Callable[..., Any], function)
