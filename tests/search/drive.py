"""A driver as its own process, for tests that kill it: ``python -m tests.search.drive STUDY.yaml OUT [--inline] [path=value ...]``.

It prints ``tests.search.drive ready`` on standard output when it begins and the outcome as JSON at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdsearch.errors import KDSearchError
from kdsearch.record.run import Run
from kdsearch.search.engine import run_study
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import progress_for
from kdsearch.spec.study import load_study

SESSION = "tests.search.tabulated:Session"


def main() -> int:
    source, out, *more = sys.argv[1:]
    study = load_study(source, [one for one in more if "=" in one])
    options = RunOptions(inline="--inline" in more, session=SESSION)
    print("ready", flush=True)
    try:
        run = Run(out).create(study)
        outcome = run_study(study, run, Path(out) / "store", options, progress_for(study))
    except KDSearchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(outcome.to_json()), flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
