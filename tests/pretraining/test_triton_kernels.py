"""Triton kernels equal the code without Triton.

They run in Triton's interpreter, in a process of its own, and are compiled for GPUs.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from pretraining.backbone import padding
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.common.triton_support import can_run_triton
from pretraining.engine import median, placement, resample
from pretraining.engine.affine import AffineConfig, sample_affine
from pretraining.engine.artefacts import gaussian
from pretraining.engine.bending import Bend, bend_curves
from pretraining.engine.ensemble import PLACEMENTS

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="run by the test that starts the interpreter"
)


def test_by_the_interpreter():
    """Triton asks for it when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "interpreted"]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0 and " passed" in run.stdout and "skipped" not in run.stdout, run.stdout


def blobs(seed: int) -> TemplateBank:
    rng = np.random.default_rng(seed)
    masks = [rng.random(crop) < 0.4 for crop in [(9, 12, 7), (40, 5, 21), (32, 24, 20), (61, 33, 47)]]
    return TemplateBank.from_masks(masks, ["blob"] * len(masks), source="test", spacing_mm=1.5)


@interpreted
@pytest.mark.parametrize("mode", PLACEMENTS)
@pytest.mark.parametrize("bent", [False, True])
def test_interpreted_stamping_equals_the_hosts(mode, bent):
    shape, bank, templates = (17, 24, 20), blobs(0), [0, 3, 1, 2, 0, 1]
    placed = []
    for index, template in enumerate(templates):
        curves = bend_curves(Bend(spacing_vox=9.0, std_vox=4.0, noise_seed=index), shape) if bent else None
        placed.append(
            PLACEMENTS[mode](
                sample_affine(AffineConfig(), sample_generator(1, index)), bank.shape(template), shape, curves
            )
        )
    on_host, in_one_launch = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)
    packed = [bank.packed(template) for template in templates]
    placement.paste_templates(on_host, packed, placed)
    placement._paste_in_one_launch(in_one_launch, packed, placed)
    assert torch.equal(on_host, in_one_launch) and len(on_host.unique()) > 3


@interpreted
@pytest.mark.parametrize("shape", [(7, 5, 9), (1, 4, 2), (3, 1, 1)])
@pytest.mark.parametrize("values", [256, 3])
def test_interpreted_median_equals_scipy(shape, values):
    volume = torch.from_numpy(np.random.default_rng(0).integers(0, values, shape, dtype=np.uint8))
    found = median._median_in_one_launch(volume)
    assert np.array_equal(found.numpy(), ndimage.median_filter(volume.numpy(), 3, mode="nearest"))


@interpreted
@pytest.mark.parametrize("border", ["reflect", "replicate"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 6, 7), (2, 3, 2, 2, 2), (1, 300, 3, 2, 2)])
def test_interpreted_border_and_its_adjoint_equal_torchs(border, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last_3d)
    exact = x.double().requires_grad_()
    expected = torch.nn.functional.pad(exact, (1,) * 6, mode=border)
    padded = torch.full_like(expected, torch.nan, dtype=torch.float32, memory_format=torch.channels_last_3d)
    padding._pad_in_one_launch(x, padded, border)
    assert torch.equal(padded.double(), expected)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(gradient.double())
    torch.testing.assert_close(padding._fold_in_one_launch(gradient, border).double(), exact.grad, rtol=1e-6, atol=1e-6)


@interpreted
def test_interpreted_replication_of_a_single_voxel():
    x = torch.tensor([3.0]).view(1, 1, 1, 1, 1)
    padded = torch.empty(1, 1, 3, 3, 3)
    padding._pad_in_one_launch(x, padded, "replicate")
    assert (padded == 3).all()
    assert padding._fold_in_one_launch(padded, "replicate").item() == 81


@interpreted
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sigmas", [(0.4, 0.0, 1.5), (3.0, 2.0, 6.0)])
def test_interpreted_convolutions_equal_the_hosts(mirrored, sigmas):
    """The wider kernels are longer than the volume."""
    volume = torch.rand(5, 9, 7, generator=torch.Generator().manual_seed(0))
    kernels = [(gaussian.sampled_kernel if mirrored else gaussian.integrated_kernel)(sigma) for sigma in sigmas]
    expected = (gaussian.convolve_mirrored if mirrored else gaussian.convolve_zero)(volume, kernels)
    torch.testing.assert_close(
        gaussian._convolve_in_launches(volume, kernels, mirrored=mirrored), expected, rtol=1e-5, atol=1e-6
    )


@interpreted
@pytest.mark.parametrize("index", range(2))
def test_interpreted_resampling_equals_the_hosts(index):
    matrix = (
        sample_affine(AffineConfig(), sample_generator(0, index))
        if index
        else np.column_stack([np.eye(3), [0.5, 1.5, -0.5]])
    )
    volumes = torch.rand(2, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    for shape in ((6, 9, 7), (4, 5, 8)):
        found = resample._resample_linear_in_one_launch(volumes, matrix, shape)
        torch.testing.assert_close(found, resample.resample_linear(volumes, matrix, shape), rtol=1e-5, atol=1e-5)
    labels = (volumes[0] * 255).to(torch.uint8)
    assert torch.equal(
        resample._resample_labels_in_one_launch(labels, matrix), resample.resample_labels(labels, matrix)
    )


KERNELS = {
    "pretraining.common.probe_kernel.add_one": ["*i32"],
    "pretraining.backbone.padding_kernel.pad": [
        "*bf16 *bf16 i32 i32 i32 i32 i32",
        "*fp32 *fp32 i32 i32 i32 1 1",
        "*fp16 *fp16 1 1 1 1 1",
    ],
    "pretraining.backbone.padding_kernel.fold": [
        "*bf16 *bf16 i32 i32 i32 i32 i32",
        "*fp32 *fp32 i32 i32 i32 1 1",
        "*fp16 *fp16 1 1 1 1 1",
    ],
    "pretraining.engine.gaussian_kernel.convolve": [
        "*fp32 *fp32 *fp32 i32 i32 i32 i32 i32",
        "*fp32 *fp32 *fp32 i32 i32 1 1 1",
    ],
    "pretraining.engine.resample_kernel.linear": [
        "*fp32 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32 i32",
        "*fp32 *fp32 *fp32 *fp32 1 1 1 1 1 1",
    ],
    "pretraining.engine.resample_kernel.nearest": [
        "*u8 *u8 *fp32 i32 i32 i32 i32 i32 i32",
        "*u8 *u8 *fp32 1 1 1 1 1 1",
    ],
    "pretraining.engine.stamp_kernel.stamp": ["*u8 *i64 *i32 *i32 i32 i32 i32 i32", "*u8 *i64 *i32 *i32 i32 1 1 1"],
    "pretraining.engine.median_kernel.median": ["*u8 *u8 i32 i32 i32", "*u8 *u8 1 1 1"],
}
"""Each kernel and the types of its arguments; Triton makes a constant of an integer that is 1."""


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize(("name", "types"), [(name, types) for name, variants in KERNELS.items() for types in variants])
def test_compiles_for_gpus(name, types, capability):
    """Compiling needs no GPU, and finds mismatched types that the interpreter accepts."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, kernel = name.rsplit(".", 1)
    function = getattr(importlib.import_module(module), kernel)
    of_arguments = dict(zip(function.arg_names, [*types.split(), "constexpr"], strict=True))
    signature = {name: "constexpr" if each == "1" else each for name, each in of_arguments.items()}
    constants = {name: 1 for name, each in of_arguments.items() if each == "1"} | {"BLOCK": 256}
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False})
    assert compiled.asm["cubin"] and compiled.metadata.shared == 0
    # What does not fit into registers would go to local memory.
    assert ".local" not in compiled.asm["ptx"]


def test_a_cpu_runs_none():
    assert not can_run_triton(torch.device("cpu"))
