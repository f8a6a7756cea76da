"""The record of one made-up finished cell, which the tests of results and of tracking share."""

from __future__ import annotations

from pipeline.tracking.record import Record, epoch_metrics, opening_record

CONFIG = {
    "grid": "default",
    "cell": "digits--vit--lambda0.1--seed0",
    "dataset": "digits",
    "backbone": "vit",
    "lambda": 0.1,
    "seed": 0,
    "target": "digits",
    "choices": {},
    "pretrain": {"epochs": 2, "views": {"num_global": 2}},
    "backbone_kwargs": {"img_size": 32},
    "out": "out/pretrain",
}
PROBE = {**CONFIG, "probe": {"knn": {"k": 5}}, "out": "out/probe"}
LOSSES = ("loss", "pred_loss", "sigreg_loss", "lr")
ROWS = [{"epoch": float(epoch), **{name: 1 / (epoch + 2 * len(name)) for name in LOSSES}} for epoch in (1, 2)]
OPENING = opening_record(CONFIG, "abc-dirty")


def finished() -> Record:
    record = opening_record(CONFIG, "abc-dirty")
    record.params.update({"probe.knn.k": "5"})
    for row in ROWS:
        record.metrics.update(epoch_metrics(row))
    record.metrics.update({("probe/linear_top1", 0): 0.9, ("probe/knn_top1", 0): 0.1 + 0.2})
    return record
