"""optuna-dashboard on a run's record, for looking while a study runs."""

from __future__ import annotations

from kdsearch.errors import NothingEligible, UsageError
from kdsearch.record.run import Run


def serve_dashboard(run: Run, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve optuna-dashboard on ``run`` until Ctrl-C.

    Raises:
        UsageError: optuna-dashboard is not installed, or the port is taken.
        NothingEligible: the study was never run.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UsageError("optuna-dashboard is not installed; pip install 'kdsearch[dashboard]'") from None
    if not run.exists():
        raise NothingEligible(f"{run.path}: no run here; start it with kdsearch run")
    try:
        run_server(run.read_storage(), host=host, port=port)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from None
