"""Claims about stages.compare and stages.page.

1. From finished cells they write comparison.csv, comparison.md, figures and index.html, with the run ids of MLflow, and
   what DVC shows: metrics.json, curves.csv.
2. Run twice it writes the same bytes, and figures of data sets that left the grid are removed.
3. With cells missing it exits with 0 and names them on stderr; without MLflow it warns and leaves the ids empty.
4. With no result at all it fails, writes nothing and names the command.
5. Without baselines, or with one of them, there is a table without their columns (case A3).
6. A cell that collapsed is counted on the page, and its row has the alarm and no learned scores.
7. The page has the sections of diagnosis, density and pictures; folders that are not there are named as gaps.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from csv_tables import csv_rows
from grid_results import pretrain_metrics, probe_metrics, write_cell, write_grid

from pipeline.reports.render import figure
from pipeline.runtime.files import read_json, write_text
from pipeline.settings.cells import grid_cells
from pipeline.settings.params import load_params
from stages import compare, page

pytestmark = pytest.mark.seconds


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    raw["grid"] = {"datasets": ["digits"], "backbones": ["test_vit", "test_byobnet"], "lambdas": [0.02], "seeds": [0]}
    raw["density"] = {}
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    found = grid_cells(load_params("params.yaml"), "default")
    ids = {cell.key: f"run-of-{cell.backbone}" for cell in found}
    store = SimpleNamespace(experiment_id="7", finished_runs=lambda grid: ids)
    monkeypatch.setattr(compare, "open_store", lambda: store)
    return found


def tables_and_page():
    """Run both stages, as DVC does."""
    assert compare.main() == 0
    page.main()


def rows():
    return csv_rows("reports/comparison.csv")


def files():
    return {str(path): path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}


def test_all_reports_are_written(cells, tmp_path, capsys):
    write_grid(tmp_path, cells)
    tables_and_page()
    assert [row["mlflow_run_id"] for row in rows()] == ["run-of-test_vit", "run-of-test_byobnet"]
    shown = Path("reports/index.html").read_text(encoding="utf-8")
    assert "2 of 2 cells have results" in shown and shown.count("<svg") == 2
    assert "http://127.0.0.1:5000/#/experiments/7/runs/run-of-test_vit" in shown
    assert "http://127.0.0.1:5000/#/experiments/7/runs/run-of-test_vit" in Path("reports/comparison.md").read_text()
    said = capsys.readouterr()
    assert "| digits | 2 | " in said.out and said.err == ""
    shown = [(metric["backbone"], metric["linear_top1"]) for metric in read_json(Path("reports/metrics.json")).values()]
    assert shown == [("test_vit", float(rows()[0]["linear_top1"]))]
    assert {row["backbone"] for row in csv_rows("reports/curves.csv")} == {"test_vit", "test_byobnet"}


def test_repeats_to_the_byte_and_removes_old_figures(cells, tmp_path):
    write_grid(tmp_path, cells)
    tables_and_page()
    first = files()
    assert len(first) == 7
    Path("reports/figures/accuracy-gone.svg").write_text("<svg/>")
    tables_and_page()
    assert files() == first


def test_partial_results(cells, tmp_path, monkeypatch, capsys):
    write_grid(tmp_path, cells[:1])

    def unreachable():
        raise OSError("database is locked")

    monkeypatch.setattr(compare, "open_store", unreachable)
    tables_and_page()
    assert [(row["backbone"], row["mlflow_run_id"]) for row in rows()] == [("test_vit", "")]
    said = capsys.readouterr().err
    assert "no run ids, the MLflow store is unavailable: OSError: database is locked" in said
    reason = f"{cells[1].key}: no {cells[1].folder}/pretrain/metrics.json; make it with: dvc repro"
    assert f"missing: {reason}\n" in said
    assert reason in Path("reports/index.html").read_text() and reason in Path("reports/comparison.md").read_text()


def test_a_collapsed_cell(cells, tmp_path, capsys):
    write_grid(tmp_path, cells)
    write_cell(tmp_path, cells[1], pretrain_metrics(alarms={"collapse": 3}), probe_metrics())
    tables_and_page()
    sound, collapsed = rows()
    assert (sound["alarms"], collapsed["alarms"], collapsed["linear_top1"]) == ("", "collapse@3", "")
    assert sound["linear_top1"] and collapsed["random_init_linear_top1"] == "0.76"
    for name in ("index.html", "comparison.md"):
        assert "collapsed (epoch 3)" in (Path("reports") / name).read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "| digits | 1 (1 collapsed, left out) |" in said
    assert "2 of 2 cells have results, 1 of them collapsed." in said


def test_no_result_is_an_error(cells, capsys):
    assert compare.main() == 1
    said = capsys.readouterr().err
    assert said.endswith("no cell of grid 'default' has results under runs/default; run: dvc repro\n")
    assert not Path("reports").exists()


def test_further_sections(cells, tmp_path):
    write_grid(tmp_path, cells)
    tables_and_page()
    shown = Path("reports/index.html").read_text(encoding="utf-8")
    assert "reports/diagnosis/default is not there; run <code>python -m stages.diagnose params.yaml</code>" in shown
    assert "python -m stages.density" in shown and "dvc repro pictures" in shown
    out = Path("reports/diagnosis/default")
    write_text(out / "report.md", f"# Diagnosis\n\nA sentence.\n\n{figure('criteria', 'criteria.svg')}\n")
    write_text(out / "criteria.svg", "<svg/>")
    tables_and_page()
    shown = Path("reports/index.html").read_text(encoding="utf-8")
    assert "<p>A sentence.</p>" in shown and shown.count("<svg") == 3
    assert "diagnosis/default is not there" not in shown


@pytest.mark.parametrize("kept", [[], ["raw_pixels"], ["random_init"]])
def test_baselines_that_were_not_asked_for(cells, tmp_path, capsys, kept):
    """A3: `probe.baselines` chooses the columns; the table is there in any case."""
    for cell in cells:
        scores = probe_metrics() | {"raw_pixels_linear_top1": 0.7, "raw_pixels_knn_top1": 0.7}
        others = {name: scores[name] for name in scores if name.startswith(("random_init", "raw_pixels"))}
        chosen = {name: value for name, value in others.items() if name.startswith(tuple(kept) or ("none",))}
        write_cell(tmp_path, cell, pretrain_metrics(), {n: v for n, v in scores.items() if n not in others} | chosen)
    tables_and_page()
    (first, _) = rows()
    assert first["linear_top1"] and {name for name in first if name.startswith(("random_init", "raw"))} == set(chosen)
    told = Path("reports/comparison.md").read_text(encoding="utf-8")
    assert ("No baseline was measured (probe.baselines)" in told) == (not kept)
    assert ("random initialisation was not measured" in capsys.readouterr().out) == ("random_init" not in kept)
