"""Test that frames place scans correctly, and that a code of the anatomy is found there."""

from __future__ import annotations

import pytest
import torch

from pretraining.probing.frames import FRAMES, MOVED, TURNED, Frame
from pretraining.probing.local_rate import local_rate

SHAPE = (22, 26, 18)


def smooth() -> torch.Tensor:
    x, y, z = torch.meshgrid(*[torch.arange(float(side)) for side in SHAPE], indexing="ij")
    return (x / 7).sin() + (y / 5).cos() + z / 9


def some_voxels(count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(5, side - 5, (count,), generator=generator) for side in SHAPE], dim=1)


@pytest.mark.parametrize(
    "frame", [*FRAMES, Frame(name="all", margin_vox=3, rotation_deg=20, scale=0.8)], ids=lambda frame: frame.name
)
def test_a_voxel_lies_where_the_frame_says(frame):
    image, voxels = smooth(), some_voxels()
    laid = frame.apply(image)
    assert laid.shape == tuple(side + frame.margin_vox for side in SHAPE)
    places, inside = frame.map_voxels(voxels, SHAPE)
    assert inside.float().mean() > 0.8
    there, here = laid[places[inside].unbind(1)], image[voxels[inside].unbind(1)]
    # The nearest voxel is at most half a voxel away along each axis, where the image changes by at
    # most .3 a voxel.
    assert (there - here).abs().max() < (0.3 if frame.rotation_deg else 1e-6)


def test_a_margin_is_empty():
    laid = MOVED.apply(smooth() + 5)
    assert torch.equal(laid[40:, 40:, 40:], smooth() + 5) and (laid[:40] == (smooth() + 5).min()).all()


def test_what_leaves_the_frame_is_named():
    corner = torch.tensor([[0, 0, 0], [11, 13, 9]])
    _, inside = TURNED.map_voxels(corner, SHAPE)
    assert inside.tolist() == [False, True]


def test_the_local_rate_of_a_code_of_the_anatomy_is_1_in_a_moved_frame_and_of_another_scans_is_chance():
    code = torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(1))
    frame = Frame(name="few", margin_vox=6)
    laid = torch.stack([frame.apply(channel) for channel in code])
    voxels = some_voxels(2000).clamp(min=5)
    places, _ = frame.map_voxels(voxels, SHAPE)
    assert local_rate(code, laid, voxels, places) == 1
    other = torch.randn(laid.shape, generator=torch.Generator().manual_seed(2))
    assert local_rate(code, other, voxels, places) < 0.03
    assert local_rate(code, laid * 3 + 1, voxels, places) == 1  # scale and offset of a channel do not matter
