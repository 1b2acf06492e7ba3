"""Static images of the figures, for papers: PNG, SVG and PDF through kaleido (an extra) and a Chrome, where both are there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kdsearch.report.style import Figure

FORMATS = ("png", "svg", "pdf")
BROWSERS = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "chrome", "microsoft-edge")
SCALE = 3
"""Pixels of a PNG per pixel on the page: 300 dpi at the width of a paper's column and a half."""


def browser() -> str | None:
    """Path of a Chrome or Chromium: ``BROWSER_PATH`` where it is set, else the first on the path; None without one."""
    given = os.environ.get("BROWSER_PATH")
    if given:
        return given if Path(given).is_file() else None
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def write_images(figures: Sequence[Figure], folder: Path) -> str:
    """Write ``<slug>.png, .svg, .pdf`` of every figure into ``folder``; gives a sentence that says so, or what is missing."""
    if importlib.util.find_spec("kaleido") is None:
        return "No static images (PNG, SVG, PDF): kaleido is not installed; pip install 'kdsearch[images]', and write the report again."
    found = browser()
    if found is None:
        return "No static images (PNG, SVG, PDF): no Chrome or Chromium was found; install one or set BROWSER_PATH to it."
    try:
        _write(figures, folder, found)
    except Exception as error:  # a browser has many ways to fail, and the page is worth more than its pictures
        return f"No static images (PNG, SVG, PDF): {found} failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
    return "Each figure is also in figures/ as PNG, SVG and PDF."


def _write(figures: Sequence[Figure], folder: Path, path: str) -> None:
    import kaleido

    jobs = []
    for figure in figures:
        if figure.drawing is None:
            continue
        drawing = figure.drawing.plotly()
        drawing.update_layout(paper_bgcolor="white", width=max(figure.min_width, min(figure.max_width, 900)))
        for kind in FORMATS:
            options = {
                "format": kind,
                "width": drawing.layout.width,
                "height": drawing.layout.height,
                "scale": SCALE if kind == "png" else 1,
            }
            jobs.append({"fig": drawing, "path": str(folder / f"{figure.slug}.{kind}"), "opts": options})
    kaleido.write_fig_from_object_sync(jobs, kopts={"path": path, "n": 1})
