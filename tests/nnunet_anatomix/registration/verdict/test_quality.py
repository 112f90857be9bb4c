"""Tests of the measures: what they are for pairs of known outcome, and that the page shows them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.field_pictures import field_panels
from nnunet_anatomix.registration.metrics import sd_log_jacobian
from nnunet_anatomix.registration.register import Registration, register
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.verdict.judge import judge
from nnunet_anatomix.registration.verdict.quality import measure_quality
from nnunet_anatomix.registration.warp import identity, warp
from nnunet_anatomix.registration.writing import measure, write_registration
from pretraining.imaging.grids import tensor_image
from tests.pretraining.common.test_html_page import Reader

SHAPE = (26, 24, 22)
CONFIG = RegistrationConfig(
    init="none", descriptors=DescriptorConfig(feature_weight=0), convexadam=ConvexAdamConfig(grid_spacing=4)
)


def blobs(seed: int) -> torch.Tensor:
    """Return a smooth body with structures, in air; its outline is the same for all seeds."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    places = np.indices(SHAPE) - np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    inside = (places / np.array(SHAPE).reshape(3, 1, 1, 1) * 2.3).__pow__(2).sum(0) < 1
    return torch.from_numpy(inside * (2 + noise / noise.std() / 2)).float()


def on_grid(volume: torch.Tensor, *, shift_mm: float = 0.0) -> sitk.Image:
    grid = sitk.Image(SHAPE, sitk.sitkFloat32)
    grid.SetSpacing((1.5, 1.2, 1.0))
    grid.SetOrigin((3.0 + shift_mm, -4.0, 5.0))
    return tensor_image(volume, grid)


def registered(moving: sitk.Image) -> Registration:
    return register(on_grid(blobs(0)), moving, config=CONFIG)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Registration]:
    x, y, z = identity(SHAPE)
    wave = torch.stack([torch.sin(y / 5), torch.cos(z / 6), torch.sin(x / 7)])
    return {
        "warped": registered(on_grid(warp((5 - blobs(0))[None], wave, beyond="border")[0])),
        "another": registered(on_grid(blobs(1))),
        "noise": registered(on_grid(torch.from_numpy(np.random.default_rng(2).normal(size=SHAPE)).float())),
        "apart": registered(on_grid(blobs(0), shift_mm=0.85 * SHAPE[0] * 1.5)),
    }


def judged(registration: Registration):
    return judge({**measure(registration), **asdict(measure_quality(registration))})


def test_verdicts_of_good_bad_and_impossible_pairs_differ(pairs):
    levels = {name: judged(registration).level for name, registration in pairs.items()}
    assert levels["warped"] == "PASS" and levels["noise"] == "FAIL" and levels["apart"] != "PASS"


def test_agreement_ranks_the_pairs_and_rises_by_registration(pairs):
    found = {name: measure_quality(registration) for name, registration in pairs.items()}
    agreements = [found[name].agreement for name in ("warped", "another", "noise")]
    assert agreements[0] > agreements[1] + 0.05 > agreements[2] + 0.3, agreements
    assert found["warped"].agreement > found["warped"].agreement_before + 0.05
    assert found["warped"].left_over_vox < min(found["another"].left_over_vox, found["noise"].left_over_vox)


def test_overlap_is_that_of_the_smaller_field_of_view(pairs):
    assert measure_quality(pairs["warped"]).overlap > 0.85
    assert measure_quality(pairs["apart"]).overlap < measure_quality(pairs["warped"]).overlap - 0.1
    inner = on_grid(blobs(0))[6:-6, 6:-6, 6:-6]
    assert measure_quality(registered(inner)).overlap > 0.9


def test_agreement_ignores_intensities_and_a_grid_that_is_far_away(pairs):
    original = pairs["warped"]
    rescaled = replace(original, moving=original.moving * 700.0 - 1000.0)
    for name, value in asdict(measure_quality(original)).items():
        assert getattr(measure_quality(rescaled), name) == pytest.approx(value, abs=1e-3)


def test_stretch_is_the_largest_factor_either_way(pairs):
    start = pairs["warped"].start
    for factors, expected in (((1.0, 1.0, 1.0), 1.0), ((1.1, 0.8, 1.0), 1.25), ((1.6, 1.0, 0.9), 1.6)):
        transform = sitk.AffineTransform(3)
        transform.Scale(factors)
        transform.Rotate(0, 1, 0.4)
        changed = replace(pairs["warped"], start=replace(start, transform=transform))
        assert measure_quality(changed).stretch == pytest.approx(expected, abs=1e-6)


def test_spread_of_volume_changes_is_zero_for_linear_displacements_and_known_for_others():
    places = identity((9, 8, 7))
    assert sd_log_jacobian(0.3 * places) == pytest.approx(0, abs=1e-4)
    halves = torch.zeros(3, 40, 8, 7)
    halves[0] = torch.where(torch.arange(40) < 20, 0.5 * torch.arange(40), 10.0)[:, None, None]  # 1.5, then 1
    inner = torch.zeros(40, 8, 7, dtype=torch.bool)
    inner[2:18], inner[22:38] = True, True
    assert sd_log_jacobian(halves, inner) == pytest.approx(np.log(1.5) / 2, abs=1e-5)
    assert np.isnan(sd_log_jacobian(halves, torch.zeros_like(inner)))


def test_the_displacement_is_drawn_where_and_as_far_as_it_is():
    fixed = on_grid(blobs(0))
    displacement = torch.zeros(3, *SHAPE)
    views, longest_mm = field_panels(fixed, displacement, fixed)
    assert longest_mm == pytest.approx(1e-3)
    displacement[0] = 2.0
    shifted, longest_mm = field_panels(fixed, displacement, fixed)
    assert longest_mm == pytest.approx(3.0) and set(shifted) == {"axial", "coronal", "sagittal"}
    displacement[0, 13:] = -2.0  # folds between planes 12 and 13
    folded, _ = field_panels(fixed, displacement, fixed)

    def magenta(picture: np.ndarray) -> bool:
        return bool((picture == (1.0, 0.0, 1.0)).all(-1).any())

    for view in ("axial", "coronal"):
        assert magenta(folded[view][1]) and not magenta(shifted[view][1]) and not magenta(views[view][1])
        assert folded[view][0].shape == folded[view][1].shape


def test_page_and_report_say_the_same(pairs, tmp_path):
    verdicts = {}
    for name in ("warped", "noise"):
        registration = pairs[name]
        verdict = write_registration(
            tmp_path / name, registration, measure(registration), pair=f"{name} & <co>", files={"fixed": "a.nii.gz"}
        )
        document = json.loads((tmp_path / name / "registration.json").read_text())
        page = Reader((tmp_path / name / "registration.html").read_text(encoding="utf-8"))
        assert (document["verdict"], document["reason"]) == (verdict.level, verdict.reason)
        assert document["levels"] == verdict.levels and document["metrics"]["agreement"] is not None
        assert f"{name} & <co>" in page.texts and verdict.level in page.texts and verdict.reason in page.texts
        assert "a.nii.gz" in page.texts and len(page.pictures) >= 7 + 6
        verdicts[name] = verdict.level
    assert verdicts == {"warped": "PASS", "noise": "FAIL"}
