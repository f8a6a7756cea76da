"""Claims about the CUDA kernels of SIGReg:

1. Under Triton's interpreter, on the CPU, they give the value and the gradient of the plain form. (This tests what the
   kernels compute; only 4 tests a GPU.)
2. They compile for NVIDIA architectures from sm_75 to sm_90 without a GPU at hand.
3. On the CPU, and on CUDA without Triton, the pure PyTorch path is taken.
4. On a GPU, skipped without one: value and gradient equal the CPU's in float64, with and without Triton.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.losses import blocks
from pipeline.losses.harmonics import FactoredBlock
from pipeline.losses.lejepa import random_directions, sigreg

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

INTERPRETED = """
import torch
from pipeline.losses import blocks, epps_pulley, random_directions, sigreg
from pipeline.losses.harmonics import FactoredBlock
from pipeline.losses.triton_blocks import FusedBlock

def run(engine, z, **grid):
    blocks._engine = lambda like: engine
    z = z.clone().requires_grad_()
    directions = random_directions(3, 5, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    value = sigreg(z, directions, **grid) + epps_pulley(z, **grid).sum()
    value.backward()
    return value.item(), z.grad.double()

FusedBlock.max_rows = 1500
for num_samples, num_knots, t_max in [(2, 2, 3.0), (37, 17, 3.0), (1600, 8, 5.0), (1024, 33, 12.0)]:
    z = torch.randn(2, num_samples, 3, generator=torch.Generator().manual_seed(1))
    want, want_grad = run(FactoredBlock, z.double(), num_knots=num_knots, t_max=t_max)
    for sample, tolerance in [(z.double(), 1e-12), (z, 1e-5)]:
        got, grad = run(FusedBlock, sample, num_knots=num_knots, t_max=t_max)
        error = ((grad - want_grad).norm() / want_grad.norm()).item()
        assert abs(got / want - 1) < tolerance and error < tolerance, (num_samples, sample.dtype, got, want, error)
"""

COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pipeline.losses.triton_blocks import STRETCH, _derivative_kernel, _sums_kernel

for kernel in (_sums_kernel, _derivative_kernel):
    types = {name: "*fp32" if name in ("theta", "partial", "weights") else "i32" for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types | {"STRETCH": "constexpr"}, constexprs={"STRETCH": STRETCH})
    for capability in (75, 80, 86, 89, 90):
        target = GPUTarget("cuda", capability, 32)
        assert compile(source, target=target, options={"enable_fp_fusion": True}).asm["cubin"]
"""


def run_python(code: str, **environment: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_triton
@pytest.mark.slow
def test_kernels_equal_the_plain_form_under_the_interpreter():
    run_python(INTERPRETED, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@needs_triton
@pytest.mark.slow
def test_kernels_compile(tmp_path):
    run_python(COMPILED, TRITON_CACHE_DIR=str(tmp_path))


def test_the_pure_path_is_taken_on_cpu_and_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "pipeline.losses.triton_blocks", raising=False)
    assert blocks._engine(torch.zeros(1)) is FactoredBlock
    assert blocks._engine(SimpleNamespace(is_cuda=True)) is FactoredBlock
    assert sigreg(torch.zeros(4, 3), random_directions(3, 5)).isfinite()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pure", [False, True])
def test_gpu_equals_cpu(monkeypatch, pure):
    if pure:
        monkeypatch.setitem(sys.modules, "triton", None)
    z = torch.randn(2, 3000, 16, generator=torch.Generator().manual_seed(0))
    directions = random_directions(16, 40, generator=torch.Generator().manual_seed(1))
    exact = z.double().requires_grad_()
    want = sigreg(exact, directions)
    want.backward()
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 1e-5)]:
        on_gpu = z.to("cuda", dtype).requires_grad_()
        got = sigreg(on_gpu, directions.cuda())
        got.backward()
        assert got.item() == pytest.approx(want.item(), rel=tolerance)
        assert (on_gpu.grad.cpu().double() - exact.grad).norm() < tolerance * exact.grad.norm()
