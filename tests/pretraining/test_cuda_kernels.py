"""On a GPU, the compiled kernels and the backbone equal their CPU counterparts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pretraining.backbone import padding
from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.common.triton_support import can_run_triton
from pretraining.engine import median, placement, resample
from pretraining.engine.affine import AffineConfig, sample_affine
from pretraining.engine.artefacts import gaussian
from pretraining.engine.ensemble import PLACEMENTS

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_triton_runs():
    assert can_run_triton(torch.device("cuda", 0))


@pytest.mark.parametrize("mode", PLACEMENTS)
def test_stamping(mode):
    rng, shape = np.random.default_rng(0), (70, 96, 65)
    masks = [rng.random(crop) < 0.4 for crop in [(9, 12, 7), (40, 5, 21), (32, 24, 20), (61, 33, 47)] * 4]
    bank = TemplateBank.from_masks(masks, ["blob"] * len(masks), source="test", spacing_mm=1.5)
    placed = [
        PLACEMENTS[mode](sample_affine(AffineConfig(), sample_generator(1, index)), bank.shape(index), shape, None)
        for index in range(len(masks))
    ]
    on_host, on_gpu = (torch.zeros(shape, dtype=torch.uint8, device=device) for device in ("cpu", "cuda"))
    placement.paste_templates(on_host, [bank.packed(index) for index in range(len(masks))], placed)
    packed = [torch.as_tensor(bank.packed(index)).to("cuda") for index in range(len(masks))]
    placement.paste_templates(on_gpu, packed, placed)
    different = (on_gpu.cpu() != on_host).float().mean()
    assert different < 1e-5 and len(on_host.unique()) > 10


def test_median():
    volume = (random(61, 48, 70) * 256).to(torch.uint8)
    assert torch.equal(median.median_3x3x3(volume.cuda()).cpu(), median.median_3x3x3(volume))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("border", ["reflect", "replicate"])
def test_padding_and_its_gradient(border, dtype):
    x = random(2, 16, 33, 24, 18).to(dtype)
    padded, gradients = [], []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        out = padding.pad_by_one(leaf, border)
        out.backward(random(*out.shape, seed=1).to(dtype).to(device))
        padded.append(out.detach().float().cpu())
        gradients.append(leaf.grad.float().cpu())
    assert torch.equal(*padded)
    torch.testing.assert_close(*gradients, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-5)


def test_resampling():
    matrix = sample_affine(AffineConfig(), sample_generator(0, 1))
    volumes = random(2, 40, 51, 33)
    found = resample.resample_linear(volumes.cuda(), matrix, (40, 51, 33)).cpu()
    torch.testing.assert_close(found, resample.resample_linear(volumes, matrix, (40, 51, 33)), rtol=1e-4, atol=1e-4)
    labels = (volumes[0] * 255).to(torch.uint8)
    different = resample.resample_labels(labels.cuda(), matrix).cpu() != resample.resample_labels(labels, matrix)
    assert different.float().mean() < 1e-4  # places at half a voxel may round otherwise


@pytest.mark.parametrize("convolve", [gaussian.convolve_mirrored, gaussian.convolve_zero])
def test_gaussian_smoothing(convolve):
    volume, kernels = random(40, 33, 51), [gaussian.sampled_kernel(sigma) for sigma in (0.4, 2.0, 5.0)]
    torch.testing.assert_close(convolve(volume.cuda(), kernels).cpu(), convolve(volume, kernels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_backbone(norm, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    config = UNetConfig(norm=norm)
    net = build(lambda: UNet(config), torch.Generator().manual_seed(0)).eval()
    x = random(1, 1, 48, 64, 32)
    with torch.no_grad():
        expected = net(x)
        found = net.cuda().to(memory_format=torch.channels_last_3d)(x.cuda()).cpu()
    assert ((found - expected).norm() / expected.norm()) < 1e-4
