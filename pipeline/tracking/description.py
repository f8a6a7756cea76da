"""Description of a run in MLflow: its row of the table, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping

DESCRIPTION = "mlflow.note.content"
SCORES = {"linear_top1": "linear", "knn_top1": "k-NN"}
LOSSES = {"train_loss": "loss", "pred_loss": "prediction", "sigreg_loss": "SIGReg"}
NETWORKS = {"": "trained", "random_init_": "random init", "raw_pixels_": "raw pixels"}


def describe(params: Mapping[str, str], metrics: Mapping[tuple[str, int], float], alarms: Mapping[str, int]) -> str:
    """Write axes, accuracies in percent beside those of the baselines, and losses; "" before the probe.

    Args:
        params: of the run.
        metrics: {(name, step): value}.
        alarms: {name: epoch} as tables show them; of a run that collapsed they show no accuracy.
    """
    numbers = {name: value for (name, step), value in metrics.items() if step == 0}
    scores = {name: label for name, label in _labels(numbers).items() if f"probe/{name}" in numbers}
    if not scores:
        return ""
    axes = [f"**{params['dataset']}**", *(params[name] for name in ("backbone", "objective") if name in params)]
    axes += [f"probed on {params['target']}"] if "target" in params else []
    parts = [", ".join([*axes, f"λ = {params['lambda']}", f"seed: {params['seed']}"])]
    parts += [f"Alarms: {', '.join(f'{name} at epoch {epoch}' for name, epoch in alarms.items())}."] if alarms else []
    rows = [
        [network, *(_percent(numbers, f"probe/{prefix}{name}") for name in scores)]
        for prefix, network in NETWORKS.items()
        if all(f"probe/{prefix}{name}" in numbers for name in scores)
    ]
    if "collapse" in alarms:
        rows[0] = ["collapsed", *("" for _ in scores)]
    parts.append(_table(["top-1 in %", *scores.values()], rows))
    losses = {label: numbers[f"pretrain/{name}"] for name, label in LOSSES.items() if f"pretrain/{name}" in numbers}
    parts += [_table([*losses], [[f"{value:.4g}" for value in losses.values()]])] if losses else []
    return "\n\n".join(parts)


def _labels(numbers: Mapping[str, float]) -> dict[str, str]:
    """Return {score: heading}: of all labels, then of few of them."""
    few = (re.fullmatch(r"probe/linear_top1_(\d+)shot", name) for name in numbers)
    shots = sorted(int(found[1]) for found in few if found)
    return SCORES | {f"linear_top1_{num}shot": f"{num}-shot" for num in shots}


def _percent(numbers: Mapping[str, float], name: str) -> str:
    spread = numbers.get(f"{name}_seed_std")
    return f"{100 * numbers[name]:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
