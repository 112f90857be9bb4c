"""Speed of registration against the convexadam package, in one run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, descriptors
from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig, convex_adam
from nnunet_anatomix.registration.warp import warp
from pretraining.common.device import has_bf16_units
from pretraining.imaging.grids import image_tensor, tensor_image
from tests.benchmarks.known_warps import smooth_warp

log = logging.getLogger(__name__)


def fastest(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mind_alone_is_at_least_as_fast_as_the_convexadam_package(data_root):
    package = pytest.importorskip("convexAdam.convex_adam_MIND").convex_adam_pt
    folder = data_root / "registration" / "mni_multimodal"
    t1, t2 = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("t1", "t2"))
    fixed, moving = image_tensor(t1), warp(image_tensor(t2)[None], smooth_warp(t1, seed=1), beyond="border")[0]
    config = ConvexAdamConfig(  # as the package
        regularization="diffusion", reach=4, adam_spacing=2, iterations=(80,), unfold=False
    )
    only_mind = DescriptorConfig(feature_weight=0)

    def ours() -> torch.Tensor:
        both = descriptors(Scan(image=fixed), Scan(image=moving), only_mind, pool=config.pool)
        return convex_adam(*both, tuple(fixed.shape), config)

    ours()  # compiles
    theirs_s = fastest(lambda: package(fixed, moving, device=torch.device("cpu"), dtype=torch.float32))
    ours_s = fastest(ours)
    pair = RegistrationConfig(init="none", descriptors=DescriptorConfig(bf16=has_bf16_units(torch.device("cpu"))))
    begin = time.perf_counter()
    found = register(t1, tensor_image(moving, t1), config=pair)
    log.warning(
        "91x109x91, MIND alone: ours %.2f s, convexadam package %.2f s, ratio %.2f; "
        "with features %.1f s, folds %.4f %% (%d threads)",
        ours_s,
        theirs_s,
        ours_s / theirs_s,
        time.perf_counter() - begin,
        100 * folded_share(found.displacement),
        torch.get_num_threads(),
    )
    assert ours_s <= theirs_s
    assert folded_share(found.displacement) < 0.005
