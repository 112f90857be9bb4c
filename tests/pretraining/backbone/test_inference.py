"""Features of volumes of any size, in one pass and by sliding windows."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

from pretraining.backbone.inference import (
    normalize_voxelwise,
    rescale_intensity,
    sliding_window_features,
    whole_volume_features,
)
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.errors import InputError


def image(*shape: int) -> Tensor:
    return 1000 * torch.rand(*shape, generator=torch.Generator().manual_seed(2)) - 300


@pytest.fixture(scope="module")
def net() -> UNet:
    """Build a small network with features of order one."""
    torch.manual_seed(4)
    small = UNet(UNetConfig(width=2, poolings=2, out_channels=3)).eval()
    with torch.no_grad():
        for _, convolution in small.convolutions():
            convolution.weight.mul_(2)
        small.output.weight /= small(torch.rand(1, 1, 16, 16, 16)).std()
    return small


class Pointwise(nn.Module):
    """Network with a receptive field of one voxel, independent of borders."""

    config = UNetConfig(poolings=2, out_channels=2)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.scale * x, x**2], dim=1)


@pytest.mark.parametrize("shape", [(37, 29, 16), (33, 16, 50)])
@pytest.mark.parametrize("overlap", [0.0, 0.6, 0.8])
def test_windows_are_blended_as_in_the_published_program(net, shape, overlap):
    """Compare with MONAI's Gaussian weights, standard deviation a quarter of the side."""
    volume = image(*shape)
    with torch.inference_mode():
        expected = sliding_window_inference(
            rescale_intensity(volume)[None, None],
            (16, 16, 16),
            1,
            net,
            overlap=overlap,
            mode="gaussian",
            sigma_scale=0.25,
        )[0]
    found = sliding_window_features(net, volume, side=16, overlap=overlap)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(20, 11, 9), (3, 32, 1)])
def test_a_window_that_holds_the_volume_is_the_whole_volume(net, shape):
    volume = image(*shape)
    torch.testing.assert_close(sliding_window_features(net, volume, side=32), whole_volume_features(net, volume))


@pytest.mark.parametrize("shape", [(37, 21, 9), (8, 19, 40)])
def test_where_borders_do_not_matter_windows_do_not_either(shape):
    volume = image(*shape)
    found = sliding_window_features(Pointwise(), volume, side=16, overlap=0.7)
    assert found.shape == (2, *shape)
    torch.testing.assert_close(
        found, Pointwise()(rescale_intensity(volume)[None, None])[0].detach(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(found, whole_volume_features(Pointwise(), volume), atol=1e-5, rtol=1e-5)


def test_features_may_enter_a_gradient(net):
    """Differentiate through features, as registration does."""
    for features in (
        whole_volume_features(net, image(9, 8, 10)),
        sliding_window_features(net, image(9, 8, 20), side=8),
    ):
        factor = torch.ones((), requires_grad=True)
        (factor * features).square().sum().backward()
        assert not features.requires_grad and factor.grad is not None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"side": 18}, "multiple of 4"),
        ({"side": 4}, "at least 8"),
        ({"overlap": 1.0}, "overlap"),
        ({"side": 8, "pool": 9}, "1 <= pool <= 8"),
        ({"pool": 0}, "1 <= pool <= 9"),
    ],
)
def test_settings_without_meaning_are_refused(net, settings, named):
    with pytest.raises(ValueError, match=named):
        sliding_window_features(net, image(9, 9, 9), **settings)


def test_a_constant_image_is_zero():
    assert torch.equal(rescale_intensity(torch.full((2, 3, 4), 5.0)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize(("shape", "side"), [((37, 29, 16), 16), ((20, 11, 9), 32), ((33, 8, 21), 8)])
@pytest.mark.parametrize("pool", [2, 3, 5])
@pytest.mark.parametrize("overlap", [0.0, 0.7])
def test_pooling_first_is_pooling_last(net, shape, side, pool, overlap):
    """Start cubes at the image's first voxel and omit incomplete ones, whatever the padding."""
    volume = image(*shape)
    expected = avg_pool3d(sliding_window_features(net, volume, side=side, overlap=overlap), pool)
    found = sliding_window_features(net, volume, side=side, overlap=overlap, pool=pool)
    assert found.shape[1:] == tuple(length // pool for length in shape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    whole = whole_volume_features(net, volume)
    torch.testing.assert_close(
        whole_volume_features(net, volume, pool=pool), avg_pool3d(whole, pool), atol=1e-5, rtol=1e-5
    )


def test_pooled_features_are_never_held_at_full_resolution(net, monkeypatch):
    volume, made = image(40, 9, 8), []
    new_zeros = Tensor.new_zeros
    monkeypatch.setattr(
        Tensor, "new_zeros", lambda *args, **kwargs: made.append(new_zeros(*args, **kwargs)) or made[-1]
    )
    sliding_window_features(net, volume, side=8, pool=4)
    assert [tuple(total.shape) for total in made] == [(3, 10, 2, 2)]


def test_voxelwise_normalization_leaves_directions(net):
    volume, options = image(21, 9, 8), {"side": 8, "overlap": 0.5}
    plain, found = (sliding_window_features(net, volume, voxelwise=voxelwise, **options) for voxelwise in (False, True))
    torch.testing.assert_close(found.square().mean(0), torch.ones(21, 9, 8))
    torch.testing.assert_close(found, normalize_voxelwise(plain))
    one_window = {"side": 32, "voxelwise": True}
    pooled = avg_pool3d(sliding_window_features(net, volume, **one_window), 2)
    torch.testing.assert_close(sliding_window_features(net, volume, pool=2, **one_window), pooled)
    torch.testing.assert_close(whole_volume_features(net, volume, pool=2, voxelwise=True), pooled)


def test_bf16_is_close_and_comes_back_as_float32(net):
    volume = image(21, 9, 8)
    for features in (whole_volume_features, sliding_window_features):
        full, half = features(net, volume), features(net, volume, bf16=True)
        assert half.dtype == torch.float32 and not torch.equal(half, full)
        assert (half - full).square().mean().sqrt() < 0.03 * full.std()


def test_a_clip_window_scales_scans_of_one_unit_alike(net):
    scan = image(9, 8, 10)
    with_metal = scan.clone()
    with_metal[0, 0, 0] = 30_000
    assert torch.equal(rescale_intensity(scan, (-100, 500)), ((scan + 100) / 600).clamp(0, 1))
    metal_clipped = rescale_intensity(with_metal, (-100, 500))
    assert torch.equal(metal_clipped[1:], rescale_intensity(scan, (-100, 500))[1:]) and metal_clipped[0, 0, 0] == 1
    expected = net(functional_pad(rescale_intensity(scan, (-100, 500))))[0]
    torch.testing.assert_close(whole_volume_features(net, scan, clip=(-100, 500)), expected[:, 1:10, :, 1:11].detach())


def functional_pad(scan: Tensor) -> Tensor:
    """Pad a volume of 9×8×10 voxels to (1, 1, 12, 8, 12)."""
    return torch.nn.functional.pad(scan[None, None], (1, 1, 0, 0, 1, 2), mode="replicate")


@pytest.mark.parametrize("clip", [(5, 5), (6, 5), (0, float("inf")), (float("nan"), 1)])
def test_a_clip_window_without_width_is_refused(clip):
    with pytest.raises(InputError, match="lower one first"):
        rescale_intensity(image(2, 3, 4), clip)
