"""What pipelines hold and what of it is on disk, without running or writing anything.

Legend: N training images, C channels, H x W canvas px.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.catalogue.datasets import Dataset, load_catalogue
from pipeline.catalogue.validation import read_section
from pipeline.models import backbones
from pipeline.planning.set_facts import SetFacts, set_facts
from pipeline.runtime.errors import ResultError, UserError, did_you_mean
from pipeline.runtime.files import read_json
from pipeline.runtime.project import grid_name, remake, repro_command, root_params
from pipeline.schema.parameters import Model, Params, Pretrain, Probe
from pipeline.schema.pretrain import Backbone
from pipeline.schema.trials import Trials
from pipeline.settings.cells import Cell
from pipeline.settings.grid import open_listing
from pipeline.settings.params import read_sections
from pipeline.trials.tuning import BASELINES
from pipeline.zoo.timm_folder import read_folder

SHAPE: dict[str, Any] = dict.fromkeys(("backbone", "batch_size", "precision", "device", "channels_last"), True)
SHAPE |= dict.fromkeys(("layout", "projector", "predictor", "swa", "objective", "objectives"), True)
SHAPE |= {"views": {"num_global", "num_local", "global_px", "local_px"}, "sigreg": {"statistic", "num_slices"}}


@dataclass(frozen=True)
class Task:
    """One cell. owner: who trains its weights, None for a frozen model; facts None: unknown until downloaded."""

    cell: Cell
    owner: Cell | None
    backbone: str
    pretrain: Pretrain
    probe: Probe
    model: Model | None
    train_set: SetFacts | None
    probe_set: SetFacts | None
    pretrain_done: bool
    probe_done: bool
    trained_s: float | None

    @property
    def done(self) -> bool:
        """Whether both results are on disk."""
        return self.pretrain_done and self.probe_done

    @property
    def num_steps(self) -> int | None:
        """Steps of the pretraining, without partial batches; None while N is unknown."""
        if self.train_set is None:
            return None
        return self.pretrain.epochs * (self.train_set.num_train // self.pretrain.batch_size)

    @property
    def shape(self) -> str:
        """Key of what decides the time of a step."""
        return f"{self.backbone} {self.pretrain.model_dump_json(include=SHAPE)}"

    @property
    def fit_key(self) -> tuple:
        """Key of what decides the time of a frozen probe on a feature."""
        return self.probe_set, self.pretrain.device, self.probe.model_dump_json(include={"linear", "knn", "few_shot"})

    @property
    def canvas(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images; colour is assumed of an unknown set."""
        load_px = self.pretrain.load_px
        return self.train_set.canvas(load_px) if self.train_set else (3, load_px, load_px)


@dataclass(frozen=True)
class Comparison:
    """An objective on a data set, tuned and then trained with every seed; or the baselines of that set.

    Attributes:
        section: its settings.
        objective: its name, or BASELINES.
        task: one of the trainings that are compared, done when all are.
    """

    section: Trials
    objective: str
    task: Task

    @property
    def num_tuned(self) -> int:
        """Trainings of the tuning."""
        if self.objective == BASELINES:
            return 0
        return len(self.section.learning_rates) * len(self.section.tuned(self.objective)[1])

    @property
    def num_compared(self) -> int:
        """Trainings that are compared: every seed, for as many images and then for as much time as the reference."""
        if self.objective == BASELINES:
            return 0
        return len(self.section.seeds) * (1 if self.objective == self.section.reference else 2)


@dataclass(frozen=True)
class Pipeline:
    """One parameter file; without tasks and comparisons, as those of synthetic figures, it trains nothing.

    around: stages that run once, whatever the number of cells.
    """

    path: Path
    grid: str
    params: Params | None = None
    entries: dict[str, Dataset] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    facts: dict[str, SetFacts | None] = field(default_factory=dict)
    around: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    @property
    def timed(self) -> list[Task]:
        """Everything that trains: cells, and one training of each comparison."""
        return [*self.tasks, *(one.task for one in self.comparisons)]

    @property
    def scored(self) -> dict[str, list[str]]:
        """For each data set that is trained on, those whose images its picked run scores."""
        sets = self.params.density.sets if self.params and self.grid == "default" else []
        return {name: list(dict.fromkeys([name, *sets])) for name in self.params.grid.datasets} if sets else {}


def params_files(pipeline: str | Path) -> list[Path]:
    """Return the parameter files at a params.yaml, the dvc.yaml beside one, a folder of one, or a folder of such."""
    path = Path(pipeline)
    if path.is_dir():
        found = [path / "params.yaml"] if (path / "params.yaml").is_file() else sorted(path.glob("*/params.yaml"))
    else:
        found = [
            file for file in [path.with_name("params.yaml") if path.name == "dvc.yaml" else path] if file.is_file()
        ]
    if not found:
        raise UserError(f"there is no pipeline at {path}; give a params.yaml, a dvc.yaml or a folder that holds them")
    return found


def read_pipeline(path: Path) -> Pipeline:
    """Read a parameter file and look up what is on disk; broken rules raise ParamsError."""
    sections = read_sections(path)
    if "trials" in sections:
        return _read_trials(path)
    if "grid" not in sections:
        return Pipeline(path, grid_name(path))
    listing = open_listing(path)
    around = _around(listing.grid == "default")
    found = Pipeline(path, listing.grid, listing.params, listing.params.datasets, around=around)
    read = {name for cell in listing.cells for name in (cell.dataset, cell.probed_on)}
    read.update(name for scored in found.scored.values() for name in scored)
    for name, entry in listing.params.datasets.items():
        if name not in read:
            continue
        foreign = found.scored and name not in listing.params.grid.datasets
        _measure_set(found, Path("data/foreign" if foreign else "data") / name, entry)
    for cell in listing.cells:
        (pretrain, probe, _), weights = listing.settings(cell), Path(listing.weights(cell))
        model = listing.params.models[cell.backbone] if cell.frozen else None
        backbone = cell.backbone
        if model:
            try:
                backbone, pretrain = _shown_to(cell.backbone, model, pretrain)
            except UserError as error:
                found.problems.append(str(error))
                continue
        task = Task(
            cell,
            listing.owners.get(cell),
            backbone,
            pretrain,
            probe,
            model,
            found.facts[cell.dataset],
            found.facts[cell.probed_on],
            weights.is_file(),
            (cell.folder / "probe" / "metrics.json").is_file(),
            _trained_s(weights.with_name("provenance.json"), found),
        )
        found.tasks.append(task)
    return found


def _around(is_root: bool) -> tuple[str, ...]:
    if not is_root:
        return ("diagnose", "table")
    known = () if Path("reports/known_density/report.md").is_file() else ("known_density",)
    return ("compare", "diagnose", "density", *known, "page")


def _measure_set(found: Pipeline, folder: Path, entry: Dataset) -> None:
    try:
        found.facts[folder.name] = set_facts(folder, entry)
    except UserError as error:
        found.facts[folder.name] = None
        found.problems.append(str(error))


def _read_trials(path: Path) -> Pipeline:
    section, catalogue, grid = read_section(path, "trials", Trials), load_catalogue(root_params()), grid_name(path)
    found = Pipeline(path, grid, entries=catalogue, around=("report",))
    for name in section.datasets:
        if name not in catalogue:
            told = f"unknown data set {name!r} in trials.datasets{did_you_mean(name, catalogue)}"
            found.problems.append(f"{path}: {told}")
            continue
        _measure_set(found, Path("data") / name, catalogue[name])
        facts = found.facts[name]
        if facts and section.num_train:
            facts = facts._replace(num_train=min(facts.num_train, section.num_train))
        for objective in [*section.objectives, BASELINES]:
            trained = section.reference if objective == BASELINES else objective
            weight = section.tuned(trained)[1][0]
            settings = section.settings_of(name, trained, weight=weight, epochs=section.pretrain.epochs)
            cell = Cell(grid, name, section.backbone, None, section.seeds[0], (("objective", objective),))
            done = (Path("runs") / grid / f"{name}--{objective}" / "rows.csv").is_file()
            about = (cell, cell, section.backbone, settings, section.probe, None, facts, facts, done, done, None)
            found.comparisons.append(Comparison(section, objective, Task(*about)))
    return found


def _trained_s(provenance: Path, found: Pipeline) -> float | None:
    """Return what a training took, None if nothing says it; a broken file is a problem of the pipeline."""
    try:
        return read_json(provenance).get("wall_s") if provenance.is_file() else None
    except ResultError as error:
        found.problems.append(str(error).replace("dvc repro", repro_command(found.path)))
        return None


def _shown_to(name: str, model: Model, pretrain: Pretrain) -> tuple[str, Pretrain]:
    """Return timm's name of a frozen model, and settings with the one view that it sees.

    Raises:
        UserError: a folder that is not here.
    """
    backbone, saved, told = model.backbone, {}, Path("models") / name / "model.json"
    if not model.is_folder:
        size_px = model.img_size or backbones.published(backbone).size_px
    elif told.is_file():
        fetched = read_json(told)
        backbone, saved, size_px = fetched["backbone"], fetched["kwargs"], fetched["size_px"]
    elif model.local_path:
        folder = read_folder(backbone)
        backbone, saved, size_px = folder.architecture, folder.arguments, model.img_size or folder.told.size_px
    else:
        raise UserError(f"models.{name}: {backbone} is unknown until it is fetched; run: {remake(told.parent)}")
    views = pretrain.views.model_copy(update={"num_global": 1, "num_local": 0, "global_px": size_px})
    network = Backbone().model_copy(update={"kwargs": saved | model.kwargs})  # a folder may say lists
    return backbone, pretrain.model_copy(update={"views": views, "backbone": network})
