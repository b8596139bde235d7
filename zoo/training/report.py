"""python -m zoo.training.report RUN: draw the curves of a run into RUN/report.png."""

from pathlib import Path
from typing import Annotated

import tyro

from zoo.console import said_in_a_line
from zoo.diagnostics.curves import draw_curves
from zoo.hub.files import write
from zoo.training.run_folder import read_log


def draw(run: Path) -> Path:
    """Draw a run's learning curves; returns the path of the PNG."""
    path = run / "report.png"
    write(path, draw_curves([read_log(run)], str(run)))
    return path


def main(run: Annotated[Path, tyro.conf.Positional]) -> None:
    with said_in_a_line():
        print(draw(run))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
