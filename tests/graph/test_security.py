"""Claims about foreign data and secrets:

1. The source has no call that would run what a file says: weights and arrays are read without pickle, nothing is given
   to a shell, no code comes from a hub.
2. A hub's token is in nothing that is printed or written where a model is refused (data sets: tests/sources/
   test_sources_hub.py).
3. A name of a catalogue, which DVC knows before anything has checked it, is no part of a command.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from source_helpers import serving
from workspace import Workspace

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("pipeline", "stages", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
TOKEN = "hf_thisIsSecret"


# 1. Calls

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "torch.hub.load"}
FORBIDDEN_ARGUMENTS = {"trust_remote_code": "False", "shell": "False", "allow_pickle": "False"}  # unless so


def offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        told = any(given.get(word, harmless) != harmless for word, harmless in FORBIDDEN_ARGUMENTS.items())
        torch_pickle = name == "torch.load" and given.get("weights_only") != "True"
        yaml_objects = name == "yaml.load" and "SafeLoader" not in ast.unparse(node)
        if name in FORBIDDEN_CALLS or told or torch_pickle or yaml_objects:
            yield ast.unparse(node)


def test_no_file_can_run_code():
    assert len(SOURCES) > 80
    found = {str(path): list(offences(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "os.system(name)",
        "load_dataset(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_such_calls(code):
    assert list(offences(ast.parse(code)))


# 2. Tokens


@pytest.mark.slow
def test_a_refused_model_shows_no_token(tmp_path):
    models = {"dino": {"backbone": "vit_small_patch14_dinov2.lvd142m"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": models}), encoding="utf-8")
    with serving() as server:
        path = "/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/model.safetensors"
        server.status[path] = (403, {"X-Error-Code": "GatedRepo"})
        told = {"HF_TOKEN": TOKEN, "HF_DEBUG": "1", "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub")}
        command = [sys.executable, "-m", "stages.model", "dino"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | told
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "could not be downloaded" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(("catalogue", "entry"), [("datasets", {"source": "sklearn"}), ("models", {"hub": "timm"})])
def test_a_name_of_a_catalogue_is_not_run(tmp_path, catalogue, entry):
    workspace = Workspace(tmp_path, paper=True)
    names = ["a'; touch hit; '", 'a"; touch hit; "', "$(touch hit)"]
    workspace.change_params({catalogue: dict.fromkeys(names, entry)})
    pipeline = {"datasets": "data/dvc.yaml", "models": "models/dvc.yaml"}[catalogue]
    told = workspace.run("dvc", "--cd", "paper", "repro", "--keep-going", pipeline, code=None)
    assert all(f"name {name!r} must be letters" in told for name in names), told
    assert not list(tmp_path.rglob("hit"))
