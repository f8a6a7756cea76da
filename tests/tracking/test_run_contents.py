"""Claims about what a run shows beside its numbers:

1. The packed data set is an input: name, digest of its files, counts, shapes. Another digest is another run.
2. Small weights are an artifact, large ones a reference with digest and command; their tensors are a table.
3. The description is the row of the table; one that somebody wrote stays.
4. The load of the machine is a curve, from a thread; epochs that were read back have none, and it may be missing.
5. Cells that differ in their seed alone have one more run, of means and standard deviations; it follows the cells.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch
from cell_record import OPENING, RUN, finished
from safetensors.torch import save_file
from stores import new_store, the_run

from pipeline.tracking import run_weights, usage
from pipeline.tracking.description import DESCRIPTION
from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import usage_metrics
from pipeline.tracking.run_inputs import data_sets
from pipeline.tracking.seed_means import seed_means
from pipeline.tracking.store import Store

pytestmark = pytest.mark.seconds


# 1. Inputs


def packed(folder: Path, sha256: str = "a" * 64) -> Path:
    splits = {
        name: {"num_images": num, "files": [{"name": f"{name}-00000.arrow", "sha256": sha256}]}
        for name, num in (("train", 30), ("test", 10))
    }
    sizes = {"channels": 3, "height_px": [8, 8], "width_px": [8, 32]}
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"splits": splits, "classes": ["0", "1"], "origin": "here", **sizes}))
    return folder


def test_the_data_set_is_an_input(store, tmp_path):
    (data,) = data_sets(RUN, packed(tmp_path / "digits"), tmp_path / "digits")
    record = replace(finished(), inputs=(data,))
    run_id = store.publish(record)
    assert store.disagreements(record) == [] and store.publish(record) == run_id
    (found,) = the_run(store).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest, found.tags[0].value) == ("digits", data.digest, "training")
    profile, schema = json.loads(found.dataset.profile), json.loads(found.dataset.schema)["mlflow_tensorspec"]
    assert profile == {"num_rows": 40, "num_train": 30, "num_test": 10, "num_classes": 2}
    assert json.loads(schema["features"])[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 3, 8, -1]}
    (other,) = data_sets(RUN, packed(tmp_path / "changed", "b" * 64), tmp_path / "changed")
    changed = replace(record, inputs=(other._replace(name="digits"),))
    assert store.disagreements(changed) == [
        f"input digits is {data.digest} in MLflow but {other.digest} in data/digits/meta.json"
    ]
    assert store.publish(changed) != run_id and store.disagreements(changed) == []


def test_a_set_that_is_probed_alone_is_for_testing_and_one_that_is_gone_is_no_input(tmp_path):
    transferred = RUN.model_copy(update={"target": "dtd"})
    found = data_sets(transferred, packed(tmp_path / "digits"), packed(tmp_path / "dtd"))
    assert {(data.name, data.context) for data in found} == {("digits", "training"), ("dtd", "testing")}
    assert list(data_sets(RUN, tmp_path / "gone", tmp_path / "gone")) == []


# 2. Weights


@pytest.fixture
def trained(tmp_path):
    save_file({"head.weight": torch.zeros(3, 4), "head.num": torch.tensor(1)}, tmp_path / "backbone.safetensors")
    return RUN.model_copy(update={"out": str(tmp_path)})


def test_small_weights_are_an_artifact(store, trained, tmp_path):
    record = replace(finished(), artifacts=finished().artifacts | run_weights.weight_artifacts(trained))
    run_id = store.publish(record)
    assert store.disagreements(record) == []
    kept = Path(the_run(store).info.artifact_uri)
    path = tmp_path / "backbone.safetensors"
    assert (kept / path.name).read_bytes() == path.read_bytes()
    table = (kept / "model_summary.txt").read_text()
    assert "13 numbers in 2 tensors" in table and "head.weight               3x4   F32" in table
    (kept / path.name).write_bytes(b"torn")
    assert store.disagreements(record) == ["artifact backbone.safetensors is another in MLflow"]
    assert store.publish(record) == run_id and (kept / path.name).read_bytes() == path.read_bytes()
    save_file({"head.weight": torch.ones(3, 4), "head.num": torch.tensor(1)}, path)
    again = replace(record, artifacts=record.artifacts | run_weights.weight_artifacts(trained))
    assert store.disagreements(again) == ["artifact weights.json is another in MLflow"]


def test_large_weights_are_a_reference(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(run_weights, "LOGGED_BYTES", 10)
    found = run_weights.weight_artifacts(trained)
    assert list(found) == ["weights.json", "model_summary.txt"]
    path = tmp_path / "backbone.safetensors"
    assert found["weights.json"]["get"] == f"dvc checkout {path.parent}" and len(found["weights.json"]["md5"]) == 32
    path.unlink()
    assert run_weights.weight_artifacts(trained) == {}


# 3. Description


def test_the_description_is_the_row_of_the_table(store):
    baselines = {("probe/random_init_linear_top1", 0): 0.5, ("probe/random_init_knn_top1", 0): 0.25}
    losses = {("pretrain/train_loss", 0): 0.123456}
    record = replace(finished(), metrics=finished().metrics | baselines | losses)
    run_id = store.publish(record)
    text = the_run(store).data.tags[DESCRIPTION]
    assert text.startswith("**digits**, vit, lejepa, λ = 0.1, seed: 0\n\n| top-1 in % | linear | k-NN |\n")
    assert "| trained | 90.0 | 30.0 |\n| random init | 50.0 | 25.0 |" in text and "| 0.1235 |" in text
    store.client.set_tag(run_id, DESCRIPTION, "mine")
    assert store.disagreements(record) == [] and store.publish(record) == run_id
    assert the_run(store).data.tags[DESCRIPTION] == "mine"
    collapsed = replace(record, shown_alarms={"collapse": 2}).tags[DESCRIPTION]
    assert "Alarms: collapse at epoch 2." in collapsed and "90.0" not in collapsed
    assert OPENING.tags[DESCRIPTION] == "", "nothing before the probe"


# 4. Load


def test_the_load_of_the_machine_is_a_curve(tmp_path):
    where = new_store(tmp_path)
    with LiveRun(OPENING, afresh=True, where=where) as live:
        live.log_epoch({"epoch": 1.0, "loss": 1.0, "lr": 0.1})  # as one that is read back from a checkpoint
        time.sleep(0.15)
        live.log_epoch({"epoch": 2.0, "loss": 0.5, "lr": 0.1})
    (load,) = live.usage
    assert load["epoch"] == 2 and load["elapsed_s"] >= 0.1 and 0 < load["system_memory_usage_percentage"] <= 100
    assert 0 <= load["cpu_utilization_percentage"] <= 100
    run = the_run(Store(where))
    assert usage_metrics(load).items() <= {(name, 2): value for name, value in run.data.metrics.items()}.items()


def test_load_that_the_files_lack_is_kept(store):
    run_id = store.publish(replace(finished(), metrics=finished().metrics | {("system/cpu", 1): 5.0}))
    assert store.disagreements(finished()) == [] and store.publish(finished()) == run_id


def test_points_have_the_times_of_their_epochs(store):
    store.publish(replace(finished(), work_s=60.0, ends_s={1: 20.0, 2: 50.0}))
    run = the_run(store)
    losses = store.client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.timestamp - run.info.start_time for point in losses] == [20_000, 50_000]


def test_gpus_are_sampled(monkeypatch):
    gone = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    fake = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=4e9 * (gpu + 1), total=16e9),
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=75) if gpu == 0 else raise_(gone),
    }
    for name, function in fake.items():
        monkeypatch.setattr(pynvml, name, function)
    monkeypatch.setattr(usage, "LEAST_S", 0.0)
    sampler = usage.UsageSampler(0.01)
    time.sleep(0.1)
    load = sampler.epoch(1)
    sampler.stop()
    assert load["gpu_0_utilization_percentage"] == 75 and load["gpu_0_memory_usage_percentage"] == 25
    assert load["gpu_1_memory_usage_megabytes"] == 8000 and "gpu_1_utilization_percentage" not in load


def raise_(error: Exception):
    raise error


# 5. Seeds


def with_seed(seed: int, **numbers: float):
    params = finished().params | {"seed": str(seed)}
    metrics = finished().metrics | {(f"probe/{name}", 0): value for name, value in numbers.items()}
    return replace(finished(), cell=f"digits--vit--lambda0.1--seed{seed}", params=params, metrics=metrics)


def test_seeds_have_a_run_of_their_means(store):
    cells = [with_seed(seed, linear_top1=score) for seed, score in ((0, 0.8), (1, 0.9), (2, 0.7))]
    (mean,) = seed_means(cells)
    assert mean.cell == "digits--vit--lambda0.1" and mean.params["seed"] == "mean of 0, 1, 2"
    assert mean.metrics["probe/linear_top1", 0] == pytest.approx(0.8)
    assert mean.metrics["probe/linear_top1_seed_std", 0] == pytest.approx(0.1)
    assert mean.metrics["train/loss", 2] == pytest.approx(finished().metrics["train/loss", 2])
    assert ("train/loss_seed_std", 2) not in mean.metrics
    for record in [*cells, mean]:
        store.publish(record)
    assert [store.disagreements(record) for record in [*cells, mean]] == [[]] * 4
    best, *_ = store.client.search_runs(
        [store.experiment_id], "params.seed LIKE 'mean of%'", order_by=["metrics.`probe/linear_top1` DESC"]
    )
    assert best.info.run_name == mean.cell and "| trained | 80.0 ± 10.0 |" in best.data.tags[DESCRIPTION]
    (again,) = seed_means([with_seed(0, linear_top1=0.4), *cells[1:]])
    assert store.disagreements(again) != [] and store.publish(again) and store.disagreements(again) == []


def test_a_single_seed_has_no_run_of_means():
    assert seed_means([with_seed(0), replace(with_seed(1), cell="digits--vit--lambda0.5--seed1")]) == []
