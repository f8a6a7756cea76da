"""The record of one made-up finished cell, which the tests of results and of tracking share."""

from __future__ import annotations

from pipeline.schema.pretrain import Pretrain, Schedule, Views
from pipeline.schema.probe import Knn, Probe
from pipeline.schema.resolved import PretrainRun, ProbeRun, TrainedWith
from pipeline.tracking.record import Record, epoch_metrics, opening_record

VIEWS = Views(num_global=2, global_px=32, local_px=16)
AXES = {
    "grid": "default",
    "cell": "digits--vit--lambda0.1--seed0",
    "dataset": "digits",
    "backbone": "vit",
    "lamb": 0.1,
    "seed": 0,
    "target": "digits",
    "choices": {},
    "backbone_kwargs": {"img_size": 32},
    "data": "data/digits",
    "probe": Probe(knn=Knn(k=5)),
}
PRETRAIN = Pretrain(epochs=2, batch_size=16, views=VIEWS, schedule=Schedule(warmup_epochs=1))
RUN = PretrainRun(**AXES, embed_dim=64, out="out/pretrain", pretrain=PRETRAIN)
PROBE = ProbeRun(
    **AXES, weights="out/pretrain/backbone.safetensors", beside="out/pretrain/projector.safetensors", out="out/probe",
    device="cpu", precision="auto", load_px=256, views=VIEWS, loader=PRETRAIN.loader,
    trained=TrainedWith.of(PRETRAIN, {}),
)  # fmt: skip
CONFIG = RUN.result_key()
LOSSES = ("loss", "pred_loss", "sigreg_loss", "lr")
ROWS = [{"epoch": float(epoch), **{name: 1 / (epoch + 2 * len(name)) for name in LOSSES}} for epoch in (1, 2)]
CODE = {"commit": "abc-dirty", "branch": "main"}
OPENING = opening_record(RUN, CODE)


def finished() -> Record:
    record = opening_record(RUN, CODE)
    record.params.update({"settings.probe.knn.k": "5"})
    for row in ROWS:
        record.metrics.update(epoch_metrics(row))
    record.metrics.update({("probe/linear_top1", 0): 0.9, ("probe/knn_top1", 0): 0.1 + 0.2})
    return record
