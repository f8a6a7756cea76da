"""Which encoder scores: the run that `stages.diagnose` picked for a data set, or a frozen model of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.selected_run import picked_weights, read_pick, stale
from pipeline.runtime.absent import NotAskedFor, again
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import read_json
from pipeline.runtime.project import grid_name, remake, reports_folder
from pipeline.schema.resolved_analyses import ScoreRun, Shown

ABSENT = Path("data/foreign/absent.json")


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder and what it is compared with.

    Attributes:
        name: data set whose picked run it is, or name of a frozen model.
        home: data set that counts as in-domain; its training images are what distances are taken to.
        weights: backbone.safetensors, which says itself how the network is built and what it is shown.
        seed: of the initialisation that the random-init score is taken of.
        cell: of the picked run; "" for a frozen model.
        shown: how it is shown images and where it runs: as the picked run was.
    """

    name: str
    home: str
    weights: Path
    seed: int
    cell: str
    shown: Shown


def encoder_names(run: ScoreRun) -> list[str]:
    """Return whose scores a grid should have, its data sets, and the frozen models that have any."""
    folder = scores_folder(run)
    frozen = [name for name in run.execution.models if any(folder.glob(f"{name}--*.csv"))]
    return [*run.datasets, *frozen]


def scored_sets(name: str, run: ScoreRun) -> list[str]:
    """Return the data sets whose images an encoder scores: its own, then those of density.sets.

    Raises:
        NotAskedFor: if density.sets is empty.
    """
    if not run.density.sets:
        raise NotAskedFor("density.sets names no data set")
    own = [name] if name in run.datasets else []
    return list(dict.fromkeys([*own, *run.density.sets]))


def set_folder(name: str, run: ScoreRun) -> Path:
    """Return where a set is packed: data/<name> if the grid trains on it, else data/foreign/<name>."""
    return Path("data") / name if name in run.datasets else Path("data/foreign") / name


def absent_sets() -> dict[str, str]:
    """Return why sets of density.sets could not be packed, by name."""
    return read_json(ABSENT) if ABSENT.exists() else {}


def scoring_command(name: str, scored: str, run: ScoreRun) -> str:
    """Return what scores a set again: a stage of DVC, or the program for a frozen model, which is none."""
    if name not in run.datasets:
        return f"python -m stages.score {name} {scored} {run.params_path}"
    if scored in run.datasets:
        return again(f"score@{name}-{scored}", run.params_path)
    return again("foreign" if scored in absent_sets() else f"score_foreign@{name}", run.params_path)


def home_of(name: str, run: ScoreRun) -> str:
    """Return the in-domain set of an encoder: its own, or the first of density.sets for a frozen model.

    A frozen model was trained on images that are not at hand; the first set stands for them.

    Raises:
        UserError: if density.sets is empty.
    """
    if not run.density.sets:
        raise UserError("density.sets must name at least one data set, got none; the first is home to frozen models")
    return name if name in run.datasets else run.density.sets[0]


def find_encoder(name: str, run: ScoreRun) -> Encoder:
    """Look up an encoder.

    Args:
        name: a data set of the grid, for the run that was picked for it, or a frozen model.
        run: settings of the scores.

    Raises:
        UserError: an unknown name, an absent pick, or weights that are not the picked ones; the message says what to
            run.
    """
    if name in run.datasets:
        pick = read_pick(name, run.params_path)
        weights, shown = picked_weights(pick, stale(name, run.params_path)), Shown.model_validate(pick["shown"])
        return Encoder(name, name, weights, seed=pick["seed"], cell=pick["cell"], shown=shown)
    if name not in run.execution.models:
        known = [*run.datasets, *run.execution.models]
        raise UserError(f"unknown encoder {name!r}{did_you_mean(name, known)}; a data set of the grid, or of models:")
    weights = Path("models") / name / "backbone.safetensors"
    if not weights.is_file():
        raise UserError(f"there is no {weights}; make it with: {remake(Path('models') / name)}")
    return Encoder(name, home_of(name, run), weights, seed=0, cell="", shown=run.shown)


def scores_folder(run: ScoreRun) -> Path:
    """Where the scores of a grid lie."""
    return reports_folder(grid_name(run.params_path)) / "scores"


def scores_path(name: str, scored: str, run: ScoreRun) -> Path:
    """Where the scores lie that an encoder gave to a data set."""
    if name in run.datasets and scored not in run.datasets:
        return scores_folder(run) / f"{name}--foreign" / f"{scored}.csv"
    return scores_folder(run) / f"{name}--{scored}.csv"
