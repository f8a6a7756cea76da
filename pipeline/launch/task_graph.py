"""The stages of a grid's cells as a graph of tasks: data set or frozen model -> pretraining -> probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.project import grid_name
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

PRETRAIN, PROBE = "pretrain", "probe"


@dataclass(frozen=True)
class Task:
    """A stage of DVC's graph that the launcher brings up to date.

    Attributes:
        stage: its address on DVC's command line, `table5/dvc.yaml:pretrain@KEY`.
        command: arguments of Python: the stage's program with its settings, or DVC itself.
        needs: addresses of the stages that must be done before.
        program: name of the module of stages/ whose code determines the result; "" where DVC runs the stage.
        settings: the file of settings that determines the result.
        reads: further files and folders that the program reads.
        out: the folder that it writes; None where DVC runs the stage.
    """

    stage: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    program: str = ""
    settings: Path | None = None
    reads: tuple[Path, ...] = ()
    out: Path | None = None

    @property
    def here(self) -> bool:
        """Whether DVC runs it, on the launcher's machine: what is fetched may need the internet, or a licence."""
        return self.out is None

    @property
    def group(self) -> str:
        """What DVC calls all stages of one `matrix` or `foreach`: tasks of a group take about as long."""
        return self.stage.partition("@")[0]


@dataclass(frozen=True)
class Graph:
    """The tasks of a pipeline.

    Attributes:
        pipeline: its dvc.yaml.
        pipelines: this and those that train shared weights.
        tasks: {address: task}, each after all that it needs.
    """

    pipeline: str
    pipelines: tuple[str, ...]
    tasks: dict[str, Task]

    @property
    def entrance(self) -> list[str]:
        """Stages that write the settings of all others."""
        inputs = ["data/dvc.yaml:inputs"] if Path("data/dvc.yaml").exists() else []
        return [*inputs, *(address(pipeline, "configure") for pipeline in self.pipelines)]

    @property
    def files(self) -> list[str]:
        """The dvc.yaml files that hold the tasks' stages."""
        return sorted({stage.rpartition(":")[0] or "dvc.yaml" for stage in self.tasks})


def cell_graph(listing: Listing) -> Graph:
    """Return the tasks of a grid's cells; the working directory is the DVC project."""
    pipelines = {listing.grid: str(listing.path.with_name("dvc.yaml"))}
    for name in listing.params.shares:
        other = listing.path.parent.parent / name / "dvc.yaml"
        pipelines[grid_name(other)] = str(other)
    tasks: dict[str, Task] = {}
    for cell in listing.cells:
        tasks |= {task.stage: task for task in _cell_tasks(cell, listing, pipelines)}
    return Graph(pipelines[listing.grid], tuple(pipelines.values()), tasks)


def _cell_tasks(cell: Cell, listing: Listing, pipelines: dict[str, str]) -> list[Task]:
    """Return a cell's probe after all that it needs."""
    if cell.frozen:
        weights = [_fetched("model", "models", cell.backbone)]
    else:
        weights = _pretraining(listing.owners[cell], pipelines)
    probed, config = _fetched("download", "data", cell.probed_on), cell.configs / "probe.json"
    probe = Task(
        _cell_stage(PROBE, cell, pipelines),
        ("-m", "stages.probe", str(config)),
        needs=(weights[-1].stage, probed.stage),
        program=PROBE,
        settings=config,
        reads=(Path(listing.weights(cell)), Path(listing.beside(cell)), Path("data", cell.probed_on)),
        out=cell.folder / PROBE,
    )
    return [*weights, probed, probe]


def _pretraining(cell: Cell, pipelines: dict[str, str]) -> list[Task]:
    data, config = _fetched("download", "data", cell.dataset), cell.configs / "pretrain.json"
    pretraining = Task(
        _cell_stage(PRETRAIN, cell, pipelines),
        ("-m", "stages.pretrain", str(config)),
        needs=(data.stage,),
        program=PRETRAIN,
        settings=config,
        reads=(Path("data", cell.dataset),),
        out=cell.folder / PRETRAIN,
    )
    return [data, pretraining]


def _fetched(kind: str, folder: str, name: str) -> Task:
    pipeline = f"{folder}/dvc.yaml" if Path(folder, "dvc.yaml").exists() else "dvc.yaml"
    stage = address(pipeline, f"{kind}@{name}")
    return Task(stage, ("-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage))


def _cell_stage(kind: str, cell: Cell, pipelines: dict[str, str]) -> str:
    """Return a stage's address; the root's stages are a matrix, whose names DVC joins from the values."""
    of_matrix = f"{cell.dataset}-{cell.backbone}-{cell.lamb}-{cell.seed}"
    return address(pipelines[cell.grid], f"{kind}@{of_matrix if cell.grid == 'default' else cell.key}")


def address(pipeline: str, name: str) -> str:
    """Return what DVC's command line takes for a stage, or a group of stages, of a dvc.yaml."""
    return name if pipeline == "dvc.yaml" else f"{pipeline}:{name}"
