"""Tasks that can run at the same time: DVC's graph, with the stages of one cell joined.

Graphs point from what is read to its reader. A stage of a `matrix` or `foreach` has a key, the part after the @ of its
name: `pretrain@digits-test_vit-0.02-0`. Stages without one (configure, diagnose, compare) run where the launcher runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import networkx as nx

from pipeline.launch.repository import locked_repository, refuse_company
from pipeline.runtime.errors import UserError

Key = tuple[str, str]  # path of a dvc.yaml, what stands after the @


class Stage(NamedTuple):
    """What the launcher needs to know of a stage.

    Attributes:
        address: as on DVC's command line.
        key: None for a stage without one.
        travels: its results reach another machine through DVC's run cache and a remote.
        clean: neither it nor anything it is made from has changed.
    """

    address: str
    key: Key | None
    travels: bool = True
    clean: bool = False


class Task(NamedTuple):
    """Stages that run one after the other in one place.

    Attributes:
        stages: addresses, in the order to run them.
        here: it runs on the launcher's machine.
        reads: addresses of the stages whose results it is made from.
        called: a name for a task that is no cell.
    """

    stages: tuple[str, ...]
    here: bool = False
    reads: tuple[str, ...] = ()
    called: str = ""

    @property
    def kind(self) -> str:
        """What tasks that take about as long have in common, `pretrain+probe`."""
        first, *others = (stage.partition("@")[0] for stage in self.stages)
        return "+".join([first, *(stage.rpartition(":")[2] for stage in others)])

    @property
    def name(self) -> str:
        """How a person calls it, `pretrain+probe@digits-test_vit-0.02-0`."""
        return self.called or self.kind + "".join(self.stages[-1].partition("@")[1:])


def read_graph(pipeline: str) -> nx.DiGraph:
    """Return the stages of a pipeline and all that they are made from: a graph of addresses, each with its `stage`.

    Args:
        pipeline: a dvc.yaml.

    Raises:
        UserError: there is no such pipeline in a DVC repository here.
    """
    from dvc.exceptions import DvcException  # a second, which whoever only reads the tasks does not need

    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()} is not the root of a DVC repository; change to the folder that holds .dvc")
    try:
        with locked_repository() as repo:
            refuse_company()
            graph = repo.index.graph.reverse()
            asked = repo.stage.collect(pipeline)
            wanted = set(asked).union(*(nx.ancestors(graph, stage) for stage in asked))
            graph = graph.subgraph(wanted)
            return _named(graph, _clean(graph))
    except DvcException as error:
        raise UserError(f"dvc cannot read {pipeline}: {error}; `dvc repro {pipeline}` says more") from None


def _clean(graph: nx.DiGraph) -> set:
    """Return the stages that have nothing to do, whatever the others do."""
    from dvc.lock import LockError

    from pipeline.runtime.bars import DELAY_S, bar  # not of the standard library, as what nodes are sent must be

    clean: set = set()
    stages = nx.topological_sort(graph)
    for stage in bar("stages compared with dvc.lock", len(graph), unit="stage", delay_s=DELAY_S, iterable=stages):
        with suppress(LockError):  # in use by a process that an earlier launch left: its task waits for it
            if clean.issuperset(graph.predecessors(stage)) and not stage.changed():
                clean.add(stage)
    return clean


def _named(graph: nx.DiGraph, clean: set) -> nx.DiGraph:
    named = nx.relabel_nodes(graph, {stage: stage.addressing for stage in graph})
    for stage in graph:
        key = getattr(stage, "name", "").partition("@")[2]
        # DVC keeps no run in its run cache that has other outputs, or that reads nothing.
        lost = [out for out in stage.outs if out.persist or not (out.use_cache or out.is_metric or out.is_plot)]
        facts = (key and (stage.path_in_repo, key)) or None, bool(stage.deps) and not lost, stage in clean
        named.nodes[stage.addressing]["stage"] = Stage(stage.addressing, *facts)
    return named


def blocks(graph: nx.DiGraph, keys: Mapping[str, Key | None]) -> list[tuple[str, ...]]:
    """Join stages of one key that build on each other.

    A block that something outside must run in the middle of (it reads one of the block's stages and another one reads
    it) falls apart into its stages.

    Args:
        graph: acyclic.
        keys: of its nodes; None stays alone.

    Returns:
        every node in one block, in an order in which they can run.
    """
    members = defaultdict(list)
    for node in graph:
        members[keys[node] or node].append(node)
    rank = {node: place for place, node in enumerate(nx.topological_sort(graph))}
    parts = [part for group in members.values() for part in nx.weakly_connected_components(graph.subgraph(group))]
    found = [tuple(sorted(part, key=rank.__getitem__)) for part in parts]
    knots = [knot for knot in nx.strongly_connected_components(joined(graph, found)) if len(knot) > 1]
    tangled = set().union(*knots)
    return [block for block in found if block not in tangled] + [(node,) for block in tangled for node in block]


def joined(graph: nx.DiGraph, parts: Iterable[tuple[str, ...]]) -> nx.DiGraph:
    """Return the graph between the parts."""
    whole = nx.DiGraph()
    whole.add_nodes_from(parts)
    part_of = {node: part for part in whole for node in part}
    whole.add_edges_from((part_of[a], part_of[b]) for a, b in graph.edges if part_of[a] != part_of[b])
    return whole


def plan(graph: nx.DiGraph, *, exchange: bool) -> nx.DiGraph:
    """Return the graph of the tasks that have something to do.

    Args:
        graph: of `read_graph`.
        exchange: machines share nothing but a DVC remote. Then a task stays here if its results would not travel, or if
            nothing feeds it: downloads may need files that were fetched by hand, a licence, or the internet. A clean
            task stays in the plan if a task elsewhere reads it: it is pushed from here.
    """
    stages = {node: graph.nodes[node]["stage"] for node in graph}
    parts = joined(graph, blocks(graph, {node: stage.key for node, stage in stages.items()}))
    alone = {part for part in parts if stages[part[0]].key is None}
    if exchange:
        alone |= {p for p in parts if not parts.in_degree(p) or not all(stages[node].travels for node in p)}
    reads = {part: sorted({read for node in part for read in graph.predecessors(node)} - {*part}) for part in parts}
    tasks = nx.relabel_nodes(parts, {part: Task(part, part in alone, tuple(reads[part])) for part in parts})
    todo = {task for task in tasks if not all(stages[node].clean for node in task.stages)}
    read = {source for task in todo if exchange and not task.here for source in tasks.predecessors(task)}
    return nx.relabel_nodes(tasks.subgraph(todo | read), {task: task._replace(here=True) for task in read - todo})


def orders(tasks: nx.DiGraph) -> dict[Task, Sequence[Task]]:
    """Return {task: what must be done before it}, as graphlib.TopologicalSorter takes it."""
    return {task: list(tasks.predecessors(task)) for task in tasks}
