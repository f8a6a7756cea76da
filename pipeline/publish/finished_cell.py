"""A finished cell by its name: settings, numbers and origin, from the files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.reports.tables import read_alarms, read_scores
from pipeline.runtime.errors import ResultError, UserError, did_you_mean
from pipeline.runtime.files import read_json
from pipeline.runtime.project import repository, repro_command, shown
from pipeline.schema.resolved import ProbeRun


@dataclass(frozen=True)
class FinishedCell:
    """What a cell that was pretrained and probed here says of itself.

    Attributes:
        run: settings of the probe; its paths are relative to `home`.
        home: the DVC project.
        trained: settings of the pretraining, as it was run.
        summary: metrics.json of the pretraining.
        provenance: commit, versions and hardware of the pretraining.
        scores: {name: fraction} as in comparison.csv; of a run that collapsed the baselines alone.
        alarms: {name: epoch} as in comparison.csv.
        meta: of the packed data set that was trained on.
        params: the parameter file of the grid.
    """

    run: ProbeRun
    home: Path
    trained: dict[str, Any]
    summary: dict[str, Any]
    provenance: dict[str, Any]
    scores: dict[str, float]
    alarms: dict[str, int]
    meta: dict[str, Any]
    params: Path

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.home / self.run.weights


def find_cell(name: str) -> Path:
    """Return the folder of a cell's resolved settings.

    Args:
        name: key of a cell, or runs/<grid>/<cell>.

    Raises:
        UserError: no cell is called so, or cells of several grids are.
    """
    path = Path(name)
    beside = path.parent / "configs" / path.name
    if path.parent != Path() and (beside / "probe.json").is_file():
        return beside.resolve()
    homes = [repository(), *(link.parent for link in sorted(repository().glob("*/.dvc")))]
    known = [file.parent for home in homes for file in sorted(home.glob("runs/*/configs/*/probe.json"))]
    found = [folder for folder in known if folder.name == name]
    if not known:
        raise UserError("no cell has been configured here; run: dvc repro")
    if not found:
        raise UserError(f"unknown cell {name!r}{did_you_mean(name, {folder.name for folder in known})}")
    if len(found) > 1:
        choices = ", ".join(shown(folder.parents[1] / name) for folder in found)
        raise UserError(f"cells of several grids are called {name!r}; name one of {choices}")
    return found[0].resolve()


def read_cell(configs: Path) -> FinishedCell:
    """Read the files of a cell.

    Args:
        configs: of `find_cell`.

    Raises:
        UserError: a frozen public model, which was not trained here.
        ResultError: a file is missing or broken, or was made with other settings; the message names the command.
    """
    run, home = ProbeRun.read(configs / "probe.json"), configs.parents[3]
    if run.model:
        raise UserError(f"{run.cell} is a frozen public model ({run.backbone}), which was published by others")
    params = home / ("" if run.grid == "default" else run.grid.removeprefix("miniature-")) / "params.yaml"
    command = repro_command(params)
    try:
        return _read(run, home, params)
    except ResultError as error:
        raise ResultError(f"{run.cell} is not finished: {error}".replace("dvc repro", command)) from None


def _read(run: ProbeRun, home: Path, params: Path) -> FinishedCell:
    weights = home / run.weights
    if not weights.is_file():
        raise ResultError(f"no {weights}; make it with: dvc repro")
    summary, provenance = read_json(weights.with_name("metrics.json")), read_json(weights.with_name("provenance.json"))
    trainer = weights.parents[1]
    asked = read_json(trainer.parent / "configs" / trainer.name / "pretrain.json")
    if provenance.get("config") != asked:
        raise ResultError(f"{weights} was trained with other settings than {params} has now; run: dvc repro")
    alarms = read_alarms(weights.with_name("metrics.json"), summary)
    scores = read_scores(home / run.out / "metrics.json", ["linear_top1", "knn_top1"])
    if "collapse" in alarms:
        scores = {name: value for name, value in scores.items() if name.startswith(("random_init_", "raw_pixels_"))}
    meta = read_json(home / asked["data"] / "meta.json")
    return FinishedCell(run, home, asked, summary, provenance, scores, alarms, meta, params)
