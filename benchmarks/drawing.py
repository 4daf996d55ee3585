"""Charts of a benchmark as one SVG, drawn by the hand that draws docs/results."""

import pathlib
import sys
from collections.abc import Sequence

from r1jax.report.chart import Plot, Series

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'docs' / 'results'))

import curves


def svg(charts: Sequence[tuple[str, Plot, Sequence[Series]]]) -> str:
    """Charts side by side, each with its title."""
    return curves.laid([[(title, curves.drawn(plot, list(series))) for title, plot, series in charts]])
