"""``python -m kdsearch`` is ``kdsearch``."""

from kdsearch.cli import main

main()
