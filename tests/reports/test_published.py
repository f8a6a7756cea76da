"""Claims about pipeline.reports.paper_results, paper_pairing and paper_table, and stages.table.

1. A published row meets every cell that its axis columns select; ours is the mean over seeds in percent, with the
   standard deviation (n - 1) where there are two or more, and the difference is ours minus published.
2. Verdict: within one standard deviation over seeds; with one seed within one standard error of the test set; without
   results, without a cell in the grid or with its cells left out of cells.yaml: not run.
3. Tuned axes: the cell with the best held-out accuracy answers, not the one with the best test accuracy; what was
   chosen is named.
4. `reduce` answers with the extreme over all configurations, and only where every one of them has results.
5. Another metric, another probed set and a frozen model are found; counts are those really used.
6. Lacking scores and broken files are named with the command that makes them.
7. Rows that are ambiguous or no numbers are errors that say what to do.
8. The stage writes the same bytes twice; Markdown has the paper's shape, and claims have the digits of the paper.
9. An axis `epochs` is drawn as the minutes that the trainings took, and rows say what they cost.
10. A number of which some seeds collapsed is the mean of the others and says how many did; one whose every seed did
    says so in the place of ours; the diagnosis leaves collapsed runs out and names them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from csv_tables import csv_rows
from paper_results import write_json, write_pipeline, write_result

from pipeline.reports.claims import read_claims
from pipeline.reports.paper_pairing import table_numbers
from pipeline.reports.paper_results import read_results
from pipeline.reports.paper_table import shown
from pipeline.runtime.errors import UserError
from pipeline.selection.runs import read_runs
from stages import table

pytestmark = pytest.mark.seconds

PARAMS = "paper/t/params.yaml"
TWO = "dataset,top1\ndigits,90\ndtd,40.5\n"
SETS = {"datasets": ["digits", "dtd"]}


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def numbers(listing):
    found = table_numbers(listing, read_results(listing, "dvc repro it")[0])
    return [SimpleNamespace(**row) for row in found.to_dict("records")]


def lines():
    return csv_rows("reports/t.csv")


def page():
    return Path("reports/t.md").read_text(encoding="utf-8")


def drawn():
    return "".join(ElementTree.fromstring(Path("reports/plots/t.svg").read_text(encoding="utf-8")).itertext())


def test_mean_and_deviation_over_seeds():
    listing = write_pipeline("paper/t", TWO, {**SETS, "seeds": [0, 1, 2]})
    for cell, top1 in zip(listing.cells, (0.88, 0.90, 0.95, 0.50, 0.52), strict=False):
        write_result(listing, cell, top1)
    digits, dtd = numbers(listing)
    assert digits.mean == pytest.approx(91) and digits.difference == pytest.approx(1)
    assert digits.std == digits.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert digits.verdict == "reproduced" and digits.missing == []
    assert dtd.mean == pytest.approx(51) and dtd.difference == pytest.approx(10.5) and dtd.verdict == "differs"
    assert dtd.missing == ["dtd--test_vit--lambda0.05--seed2"]


@pytest.mark.parametrize(("top1", "verdict"), [(0.9149, "reproduced"), (0.9150, "differs"), (0.8839, "differs")])
def test_one_seed_is_judged_by_the_standard_error_of_the_test_set(top1, verdict):
    listing = write_pipeline("paper/t", "dataset,top1\ndigits,90.1\n")
    write_result(listing, listing.cells[0], top1)
    (number,) = numbers(listing)
    assert math.isnan(number.std) and number.deviation == pytest.approx(100 * math.sqrt(top1 * (1 - top1) / 400))
    assert number.verdict == verdict


def test_rows_that_nothing_answers_are_not_run():
    listing = write_pipeline("paper/t", TWO + "cifar10,80\n", SETS)
    write_result(listing, listing.cells[0], 0.9)
    text = Path("paper/t/cells.yaml").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines(keepends=True) if "  dtd--" not in line]
    Path("paper/t/cells.yaml").write_text("".join(kept), encoding="utf-8")
    table.main(PARAMS)
    assert [line["verdict"] for line in lines()] == ["reproduced", "not run", "not run"]
    assert "dataset cifar10, linear_top1: no cell of paper/t/params.yaml has it" in page()
    assert "dataset dtd, linear_top1: its cells are left out of cells.yaml" in page()
    Path("paper/t/cells.yaml").write_text("cells: {}\n", encoding="utf-8")
    table.main(PARAMS)
    assert [line["verdict"] for line in lines()] == ["not run"] * 3
    assert [(claim.seeds, claim.ours) for claim in read_claims(Path("reports/claims/t.csv"))][1:] == [(0, "")] * 2


def test_epochs_are_drawn_as_minutes():
    axis = {"epochs": {"sets": ["pretrain.epochs"], "values": [20, 50, 120]}}
    listing = write_pipeline("paper/t", "", {"axes": axis})
    for cell in listing.cells:
        write_result(listing, cell, 0.8)
        path = listing.owners[cell].folder / "pretrain/provenance.json"
        made = json.loads(path.read_text(encoding="utf-8")) | {"train_s": 6.0 * dict(cell.choices)["epochs"]}
        path.write_text(json.dumps(made), encoding="utf-8")
    table.main(PARAMS)
    assert "minutes of training" in drawn() and [line["train_s"] for line in lines()] == [
        "120.0000",
        "300.0000",
        "720.0000",
    ]
    assert "seconds: 120 to 720; commit: c0ffee" in page()


TUNED = {
    "axes": {"lr": {"sets": ["pretrain.optimizer.lr"], "values": [0.003, 0.0001]}},
    "lambdas": [0.01, 0.1],
    "selected": ["lambda", "lr"],
}


def tuned_listing(seeds):
    """Held-out accuracy rises with lambda and falls with the test accuracy; seed 1 likes the smaller rate."""
    listing = write_pipeline("paper/t", "dataset,top1\ndigits,70\n", {**TUNED, "seeds": seeds})
    for cell in listing.cells:
        likes = dict(cell.choices)["lr"] == (0.003 if cell.seed == 0 else 0.0001)
        held_out = 0.6 + cell.lamb + 0.05 * likes
        write_result(listing, cell, 1.5 - held_out, linear_holdout_top1=held_out)
    return listing


def test_tuned_axes_are_chosen_on_held_out_images():
    (number,) = numbers(tuned_listing([0]))
    assert number.mean == pytest.approx(75)
    assert number.chosen == "lambda 0.1, lr 0.003" and not hasattr(number, "lr")


EXTREMES = "reduce,label,top1\nmin,lowest of 2,91.5\nmax,highest of 2,95\n"


def test_extremes_need_every_configuration():
    listing = write_pipeline("paper/t", EXTREMES, {"backbones": ["test_vit", "test_resnet"]})
    write_result(listing, listing.cells[0], 0.91)
    assert [n.verdict for n in numbers(listing)] == ["not run", "not run", "", ""]
    write_result(listing, listing.cells[1], 0.94)
    low, high, vit, resnet = numbers(listing)
    assert (low.mean, high.mean) == pytest.approx((91, 94))
    assert (low.chosen, high.chosen) == ("backbone test_vit", "backbone test_resnet")
    assert (vit.backbone, vit.mean, resnet.mean) == ("test_vit", pytest.approx(91), pytest.approx(94))
    table.main(PARAMS)
    assert "| lowest of 2 | – | 91.0 (published 91.5, −0.5) |" in page()


def test_metrics_sets_and_frozen_models():
    published = "backbone,target,metric,top1\n"
    published += "".join(
        f"{backbone},dtd,{metric},30\n"
        for backbone in ("test_vit", "big")
        for metric in ("linear_top1", "linear_top1_1shot")
    )
    listing = write_pipeline(
        "paper/t",
        published,
        {"targets": ["dtd"], "models": ["big"]},
        models={"big": {"backbone": "test_resnet"}},
    )
    trained, frozen = listing.cells
    write_result(listing, trained, 0.4, linear_top1_1shot=0.3, linear_top1_1shot_images=47)
    write_result(listing, frozen, 0.6, linear_top1_1shot=0.2)
    found = numbers(listing)
    assert [n.mean for n in found] == pytest.approx([40, 30, 60, 20])
    assert [(n.num_pretrain, n.num_train) for n in found[:2]] == [(1438, 1880), (1438, 47)]
    assert all(math.isnan(n.num_pretrain) and n.num_test == 1880 for n in found[2:])
    assert found[0].random_init == pytest.approx(50) and math.isnan(found[1].raw_pixels)
    table.main(PARAMS)
    assert "| backbone | linear_top1 | linear_top1_1shot |" in page()
    assert "dataset `digits`, lambda `0.05`, target `dtd`" in page()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "metrics.json is broken"),
        ('{"linear_top1": 1.2}', "scores must be fractions in [0, 1], but linear_top1 is 1.2"),
        ('{"knn_top1": 0.5}', "what linear_top1 needs is not in it"),
    ],
)
def test_broken_files_are_named(text, said, capsys):
    listing = write_pipeline("paper/t", TWO, SETS)
    for cell in listing.cells:
        write_result(listing, cell, 0.9)
    broken = listing.cells[0].folder / "probe/metrics.json"
    broken.write_text(text, encoding="utf-8")
    table.main(PARAMS)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if str(broken) in line]
    assert said in told and said in page()
    assert "run: dvc repro paper/t/dvc.yaml" in told or "is not in it" in told
    assert [line["verdict"] for line in lines()] == ["not run", "differs"]


@pytest.mark.parametrize(
    ("published", "said"),
    [
        (
            "backbone,top1\ntest_vit,90\n",
            r"published.csv line 2 is about cells that differ in dataset; add these",
        ),
        ("dataset,top1\ndigits,good\n", r"line 2: top1 must be a percentage in \[0, 100\], got 'good'"),
        ("reduce,top1\nmost,90\n", r"line 2: reduce must be one of min, max or empty, got 'most'"),
    ],
)
def test_bad_rows_are_refused(published, said):
    listing = write_pipeline("paper/t", published, SETS)
    with pytest.raises(UserError, match=said):
        numbers(listing)


def test_same_bytes():
    listing = write_pipeline("paper/t", TWO, SETS)
    write_result(listing, listing.cells[0], 0.9)
    written = []
    for _ in range(2):
        table.main(PARAMS)
        written.append({str(path): path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["reports/claims/t.csv", "reports/plots/t.svg", "reports/t.csv", "reports/t.md"]
    assert "Pretrained on: cpu, Abacus, commit c0ffee." in page()


def test_claims_have_the_digits_of_the_paper():
    listing = write_pipeline("paper/t", "dataset,label,top1\ndigits,ours,90.25\n", {"seeds": [0, 1]})
    for cell, top1 in zip(listing.cells, (0.90, 0.91), strict=True):
        write_result(listing, cell, top1)
    table.main(PARAMS)
    (claim,) = read_claims(Path("reports/claims/t.csv"))
    assert claim.claim == "ours, dataset digits, linear_top1"
    assert (claim.published, claim.ours, claim.std, claim.seeds) == ("90.25", "90.50", "0.71", 2)
    assert claim.verdict == "reproduced"
    assert "90.5 ± 0.7 (published 90.25, +0.2)" in page()


# Collapse

SCORES = (0.88, 0.90, 0.10)


def listing_with(summaries: dict[int, dict]):
    """Write three seeds of which some have these entries in their pretraining's metrics.json."""
    listing = write_pipeline("paper/t", "dataset,top1\ndigits,90\n", {"seeds": [0, 1, 2]})
    for cell, top1 in zip(listing.cells, SCORES, strict=True):
        write_result(listing, cell, top1)
        write_json(cell.folder / "pretrain/metrics.json", {"num_images": 1438, **summaries.get(cell.seed, {})})
    return listing


def number(summaries: dict[int, dict]) -> dict:
    (found,) = numbers(listing_with(summaries))
    return vars(found)


def collapsed_at(epoch: int) -> dict:
    return {"alarms": {"collapse": epoch}, "collapsed": True}


def test_some_seeds_collapsed():
    found = number({2: collapsed_at(3)})
    assert found["mean"] == pytest.approx(89) and found["missing"] == [] and found["verdict"] == "reproduced"
    assert shown(found, 1) == "89.0 ± 1.4, 1 of 3 collapsed (published 90, −1.0)"


def test_every_seed_collapsed():
    found = number({0: collapsed_at(3), 1: collapsed_at(3), 2: collapsed_at(5)})
    assert math.isnan(found["mean"]) and found["verdict"] == "differs"
    assert shown(found, 1) == "collapsed (epoch 3, 5) (published 90)"


def test_the_diagnosis_leaves_collapsed_runs_out():
    losses = {"train_loss": 0.2, "pred_loss": 0.1, "sigreg_loss": 1.0}
    listing = listing_with({0: losses, 1: losses, 2: {**losses, **collapsed_at(4)}})
    found = read_runs(listing, "dvc repro it")
    assert [cell.seed for cell in found.runs] == [0, 1]
    assert f"{listing.cells[2].key}: collapsed at epoch 4; left out of correlations and picks" in found.problems
