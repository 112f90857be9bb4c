"""Features of volumes of any size: in one pass and by windows."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.inference import rescaled, sliding_window_features, whole_volume_features


def image(*shape: int) -> Tensor:
    return 1000 * torch.rand(*shape, generator=torch.Generator().manual_seed(2)) - 300


@pytest.fixture(scope="module")
def net() -> UNet:
    """A small network whose features are of the order of one."""
    torch.manual_seed(4)
    small = UNet(UNetConfig(width=2, poolings=2, out_channels=3)).eval()
    with torch.no_grad():
        for _, convolution in small.convolutions():
            convolution.weight.mul_(2)
        small.output.weight /= small(torch.rand(1, 1, 16, 16, 16)).std()
    return small


class Pointwise(nn.Module):
    """Sees single voxels only, so that no border changes anything."""

    config = UNetConfig(poolings=2, out_channels=2)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.scale * x, x**2], dim=1)


@pytest.mark.parametrize("shape", [(37, 29, 16), (33, 16, 50)])
@pytest.mark.parametrize("overlap", [0.0, 0.6, 0.8])
def test_windows_are_blended_as_in_the_published_program(net, shape, overlap):
    """Which calls MONAI with Gaussian weights, standard deviation a quarter of the side."""
    volume = image(*shape)
    with torch.inference_mode():
        expected = sliding_window_inference(
            rescaled(volume)[None, None], (16, 16, 16), 1, net, overlap=overlap, mode="gaussian", sigma_scale=0.25
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
    torch.testing.assert_close(found, Pointwise()(rescaled(volume)[None, None])[0].detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, whole_volume_features(Pointwise(), volume), atol=1e-5, rtol=1e-5)


def test_features_may_enter_a_gradient(net):
    """Registration differentiates a warp of them."""
    for features in (whole_volume_features(net, image(9, 8, 10)), sliding_window_features(net, image(9, 8, 20), side=8)):
        factor = torch.ones((), requires_grad=True)
        (factor * features).square().sum().backward()
        assert not features.requires_grad and factor.grad is not None


@pytest.mark.parametrize(
    ("settings", "named"), [({"side": 18}, "multiple of 4"), ({"side": 4}, "at least 8"), ({"overlap": 1.0}, "overlap")]
)
def test_settings_without_meaning_are_refused(net, settings, named):
    with pytest.raises(ValueError, match=named):
        sliding_window_features(net, image(9, 9, 9), **settings)


def test_a_constant_image_is_zero():
    assert torch.equal(rescaled(torch.full((2, 3, 4), 5.0)), torch.zeros(2, 3, 4))
