"""Tests of registering one pair: known warps, headers, masks, memory and written files."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.memory import fit_to_memory
from nnunet_anatomix.registration.register import Registration, register
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.warp import displacement_of, identity, invert, itk_transform, warp
from nnunet_anatomix.registration.writing import measure, write_registration
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_tensor, near_isotropic_grid, resample_image, tensor_image

MIND = DescriptorConfig(feature_weight=0)
SOLVER = ConvexAdamConfig(grid_spacing=4, reach=3, smoothness=0.75)
PLAIN = RegistrationConfig(init="none", descriptors=MIND, convexadam=SOLVER)
"""Settings for pairs with correct headers; MIND alone is fast."""


@pytest.fixture(scope="module")
def scans(data_root) -> dict[str, sitk.Image]:
    """Return T1, T2 and regions of a head, with voxels of 5 mm and different sides."""
    folder = data_root / "registration" / "mni_multimodal"
    found = {}
    for name in ("t1", "t2", "labels_neuromorphometrics"):
        image = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        grid = near_isotropic_grid(image, spacing_mm=5)[1:-2]
        if name in ("t1", "t2"):
            image = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 2)
        found[name] = resample_image(image, grid, nearest=name not in ("t1", "t2"))
    return found


@pytest.fixture(scope="module")
def truth(scans) -> Tensor:
    """Return a smooth displacement of about 2 voxels: warped(p) = scan(p + truth(p))."""
    x, y, z = identity(scans["t1"].GetSize())
    return 1.4 * torch.stack([torch.sin(y / 8 + 1), torch.cos(z / 7), torch.sin(x / 9 - 1)])


@pytest.fixture(scope="module")
def bent(scans, truth) -> dict[str, sitk.Image]:
    """Return the warped T2 and its regions."""
    labels = image_tensor(scans["labels_neuromorphometrics"])[None]
    return {
        "t2": tensor_image(warp(image_tensor(scans["t2"])[None], truth, beyond="border")[0], scans["t2"]),
        "labels": tensor_image(warp(labels, truth, mode="nearest")[0].int(), scans["t2"]),
    }


@pytest.fixture(scope="module")
def brain(scans) -> Tensor:
    return image_tensor(scans["labels_neuromorphometrics"]) > 0


@pytest.fixture(scope="module")
def plain(scans, bent) -> Registration:
    return register(scans["t1"], bent["t2"], config=PLAIN)


def errors(found: sitk.Transform, truth: Tensor, grid: sitk.Image, brain: Tensor) -> Tensor:
    """Compute the error over the brain, voxels: first the transform, then back by the truth."""
    displacement = displacement_of(found, grid)
    return (displacement + warp(truth, displacement, beyond="border")).norm(dim=0)[brain]


def apart(one: sitk.Transform, other: sitk.Transform, grid: sitk.Image, brain: Tensor) -> float:
    """Compute the median distance between two transforms over the brain, voxels."""
    return (displacement_of(one, grid) - displacement_of(other, grid)).norm(dim=0)[brain].median().item()


def halved(found: Registration, truth: Tensor, scans: dict[str, sitk.Image], brain: Tensor) -> bool:
    after, before = (
        errors(transform, truth, scans["t1"], brain).median()
        for transform in (found.forward, sitk.Transform(3, sitk.sitkIdentity))
    )
    return bool(before > 1.2) and bool(after < before / 2)


def test_a_known_warp_is_undone(scans, truth, brain, plain):
    assert halved(plain, truth, scans, brain)
    assert plain.settings["method"] == "convexadam-mind" and plain.start.name == "header"


def test_by_features_too(scans, bent, truth, brain):
    config = RegistrationConfig(init="none", descriptors=DescriptorConfig(side=64), convexadam=SOLVER)
    found = register(scans["t1"], bent["t2"], config=config, features=load_weights(find_weights()))
    assert halved(found, truth, scans, brain)
    assert found.settings["method"] == "convexadam-mind+features"


def test_the_same_call_gives_the_same_displacement(scans, bent, plain):
    again = register(scans["t1"], bent["t2"], config=PLAIN)
    assert torch.equal(again.displacement, plain.displacement)
    assert torch.equal(image_tensor(again.moved), image_tensor(plain.moved))


def test_a_result_prints_in_one_line(plain):
    assert re.fullmatch(r"Registration\(convexadam-mind, grid \d+x\d+x\d+, [\d.]+ s\)", repr(plain))


def test_scans_are_left_as_they_were(scans, bent, plain):
    assert np.array_equal(sitk.GetArrayFromImage(plain.fixed), sitk.GetArrayFromImage(scans["t1"]))
    assert plain.moved.GetSize() == scans["t1"].GetSize() and plain.moved.GetPixelID() == sitk.sitkFloat32


def finer(image: sitk.Image) -> sitk.Image:
    """Resample to a slightly finer grid over the same box."""
    return resample_image(image, near_isotropic_grid(image, spacing_mm=4.6))


@pytest.mark.parametrize(
    "change",
    [
        lambda scan: sitk.Flip(scan, (True, False, True)),
        lambda scan: sitk.PermuteAxes(scan, (2, 0, 1)),
        lambda scan: scan[2:, 3:-2, :-2],
        finer,
    ],
    ids=["flipped", "permuted", "cropped", "finer"],
)
def test_how_the_moving_scan_is_stored_matters_little(scans, bent, brain, plain, change):
    found = register(scans["t1"], change(bent["t2"]), config=PLAIN)
    assert apart(found.forward, plain.forward, scans["t1"], brain) < 0.5


@pytest.mark.parametrize(
    "change", [lambda scan: sitk.Flip(scan, (False, True, True)), lambda scan: sitk.PermuteAxes(scan, (1, 2, 0))]
)
def test_how_the_fixed_scan_is_stored_matters_little(scans, bent, brain, plain, change):
    found = register(change(scans["t1"]), bent["t2"], config=PLAIN)
    assert apart(found.forward, plain.forward, scans["t1"], brain) < 0.5


def test_intensities_may_be_of_any_scale(scans, bent, brain, plain):
    found = register(scans["t1"] * 0.01 - 3.0, bent["t2"] * 50.0 + 1000.0, config=PLAIN)
    assert apart(found.forward, plain.forward, scans["t1"], brain) < 0.1


def test_what_lies_outside_a_mask_matters_little(scans, bent, truth, brain):
    masks = {
        f"{role}_mask": sitk.BinaryDilate(sitk.Cast(labels > 0, sitk.sitkUInt8), (3, 3, 3))
        for role, labels in (("fixed", scans["labels_neuromorphometrics"]), ("moving", bent["labels"]))
    }
    volume, outside = image_tensor(bent["t2"]), image_tensor(masks["moving_mask"]) == 0
    volume[:, :12] += 5 * volume.max() * outside[:, :12]
    junk = tensor_image(volume, bent["t2"])
    clean, masked = (register(scans["t1"], moving, config=PLAIN, **masks) for moving in (bent["t2"], junk))
    assert torch.equal(clean.displacement, masked.displacement)
    assert halved(masked, truth, scans, brain)
    assert 0 < masked.known.mean() < 0.6


def test_a_mask_of_what_the_other_scan_lacks_is_refused(scans, bent):
    mask = sitk.Image(bent["t2"].GetSize(), sitk.sitkUInt8)
    mask.CopyInformation(bent["t2"])
    mask[:, :, 25:] = 1
    with pytest.raises(InputError, match="check the masks, or omit them"):
        register(scans["t1"][:, :, :20], bent["t2"], config=PLAIN, moving_mask=mask)


@pytest.fixture(scope="module")
def shifted(scans, bent) -> sitk.Image:
    """Return the moving scan at another position."""
    moving = sitk.Image(bent["t2"])
    moving.SetOrigin([place + step for place, step in zip(moving.GetOrigin(), (150.0, -300.0, 80.0), strict=True)])
    return moving


@pytest.fixture(scope="module")
def written(scans, bent, shifted, tmp_path_factory) -> tuple[Path, Registration, dict]:
    """Write a registration whose start is not the identity."""
    out = tmp_path_factory.mktemp("out") / "pair"
    labels = sitk.Image(bent["labels"])
    labels.CopyInformation(shifted)
    found = register(
        scans["t1"], shifted, config=RegistrationConfig(affine="rigid", descriptors=MIND, convexadam=SOLVER)
    )
    metrics = measure(found, fixed_labels=scans["labels_neuromorphometrics"], moving_labels=labels)
    write_registration(out, found, metrics, pair="head", moving_labels=labels, comment="of a test")
    return out, found, metrics


def test_nothing_is_missing_on_disk(written):
    out, found, metrics = written
    names = {
        "forward.nii.gz",
        "forward.h5",
        "inverse.nii.gz",
        "inverse.h5",
        "start.tfm",
        "moved.nii.gz",
        "moved_labels.nii.gz",
        "0GenericAffine.mat",
        "1Warp.nii.gz",
        "1InverseWarp.nii.gz",
    }
    assert {path.name for path in out.iterdir()} == names | {"overview.png", "registration.html", "registration.json"}
    document = json.loads((out / "registration.json").read_text())
    assert document["pair"] == "head" and document["comment"] == "of a test"
    assert document["method"] == "convexadam-mind"
    assert document["metrics"]["dice"] == metrics["dice"] and document["start"]["name"] == found.start.name != "header"
    assert set(document["seconds_by_stage"]) == {"start", "resampling", "descriptors", "solver", "transforms"}


def test_a_result_moves_images_labels_and_points(scans, bent, shifted, written, tmp_path):
    _, found, _ = written
    assert np.array_equal(image_tensor(found.apply(shifted)), image_tensor(found.moved))
    labels = sitk.Cast(bent["labels"], sitk.sitkUInt32) * 4_000_001
    labels.CopyInformation(shifted)
    moved = found.apply_labels(labels)
    assert moved.GetPixelID() == sitk.sitkUInt32 and moved.GetSize() == found.fixed.GetSize()
    assert set(np.unique(sitk.GetArrayViewFromImage(moved))) <= set(np.unique(sitk.GetArrayViewFromImage(labels)))
    fixed_points = np.array([found.fixed.TransformIndexToPhysicalPoint(index) for index in ((9, 12, 8), (15, 20, 12))])
    moving_points = np.array([found.forward.TransformPoint(point) for point in fixed_points.tolist()])
    np.testing.assert_allclose(found.apply_points(moving_points), fixed_points, atol=1e-3)
    np.testing.assert_allclose(
        found.displacement_mm()[:, 9, 12, 8], moving_points[0] - fixed_points[0], atol=1e-3, rtol=0
    )
    with pytest.raises(InputError, match=r"shape \(N, 3\), found \(3,\)"):
        found.apply_points(np.zeros(3))
    array = sitk.GetArrayFromImage(shifted).transpose(2, 1, 0)
    assert np.array_equal(image_tensor(found.apply(array)), image_tensor(found.moved))
    with pytest.raises(InputError, match=r"image: an array of shape \(3, 3, 3\) has no position"):
        found.apply(np.zeros((3, 3, 3)))
    found.save(tmp_path / "kept")
    assert json.loads((tmp_path / "kept/registration.json").read_text())["pair"] == "kept"
    assert np.array_equal(image_tensor(sitk.ReadImage(str(tmp_path / "kept/moved.nii.gz"))), image_tensor(found.moved))


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_clip_without_contrast_is_refused(scans, bent, role):
    with pytest.raises(InputError, match=f"clip of the {role} scan: 1e\\+06 to 2e\\+06 leaves no contrast"):
        register(scans["t1"], bent["t2"], config=PLAIN, **{f"{role}_clip": (1e6, 2e6)})


def test_dice_rises(written):
    _, _, metrics = written
    before, after = (np.mean(list(metrics[name].values())) for name in ("dice_before", "dice"))
    assert after > before + 0.05 and metrics["folded_share"] < 0.01


def read_back(out: Path, name: str, ending: str) -> sitk.Transform:
    """Read a transform as ITK does: complete, or as a field and the start beside it."""
    if ending == "h5":
        return sitk.ReadTransform(str(out / f"{name}.h5"))
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / f"{name}.nii.gz"), sitk.sitkVectorFloat64))
    start = sitk.ReadTransform(str(out / "start.tfm"))
    return sitk.CompositeTransform([start, field] if name == "forward" else [field, start.GetInverse()])


@pytest.mark.parametrize("ending", ["nii.gz", "h5"])
@pytest.mark.parametrize("name", ["forward", "inverse"])
def test_transforms_hold_inside_and_outside_the_grid(scans, shifted, written, name, ending):
    out, found, _ = written
    transform, start = read_back(out, name, ending), found.start.transform
    ours, grid = (found.forward, scans["t1"]) if name == "forward" else (found.inverse, shifted)
    inside = [grid.TransformIndexToPhysicalPoint(index) for index in ((5, 6, 7), (12, 15, 9), (20, 11, 14))]
    for point in inside:
        assert transform.TransformPoint(point) == pytest.approx(ours.TransformPoint(point), abs=1e-3)
    alone = start if name == "forward" else start.GetInverse()
    edge = grid.TransformIndexToPhysicalPoint((grid.GetWidth() - 1, 6, 7))
    axis = np.array(grid.GetDirection())[::3]
    for distance_mm in (60, 1000):
        point = tuple(edge + distance_mm * axis)
        assert transform.TransformPoint(point) == pytest.approx(alone.TransformPoint(point), abs=1e-3)
        assert np.linalg.norm(np.subtract(transform.TransformPoint(point), point)) > 5


def test_ants_moves_points_by_what_is_written(scans, shifted, written):
    ants = pytest.importorskip("ants")
    pandas = pytest.importorskip("pandas")
    out, found, _ = written
    sitk.WriteTransform(found.start.transform.GetInverse(), str(out.parent / "start_inverse.tfm"))
    for files, ours, grid in (
        (["forward.nii.gz", "start.tfm"], found.forward, scans["t1"]),
        (["forward.h5"], found.forward, scans["t1"]),
        (["../start_inverse.tfm", "inverse.nii.gz"], found.inverse, shifted),
        (["inverse.h5"], found.inverse, shifted),
    ):
        points = np.array([grid.TransformContinuousIndexToPhysicalPoint(at) for at in ((5.5, 6, 7), (14, 15.2, 9))])
        points = np.vstack([points, points[:1] + 1000])
        table = pandas.DataFrame(points, columns=list("xyz"))
        paths = [str(out / file) for file in files]
        theirs = ants.apply_transforms_to_points(3, table, paths, whichtoinvert=[False] * len(paths)).to_numpy()
        expected = [ours.TransformPoint(point) for point in points.tolist()]
        np.testing.assert_allclose(theirs[:, :3], expected, atol=1e-3, rtol=0)


def test_a_start_that_bends_is_written_beside_the_displacement(scans, bent, truth, tmp_path):
    """Outside the grids neither moves anything; an older linear start does not stay."""
    move = sitk.TranslationTransform(3, (4.0, 0.0, 0.0))
    init = sitk.CompositeTransform([move, itk_transform(0.5 * truth, scans["t1"])])
    sitk.WriteTransform(init, str(tmp_path / "init.h5"))
    (tmp_path / "out").mkdir()
    for older in ("start.tfm", "1Warp.nii.gz"):
        (tmp_path / "out" / older).write_text("older")
    config = RegistrationConfig(init=str(tmp_path / "init.h5"), affine="none", descriptors=MIND, convexadam=SOLVER)
    found = register(scans["t1"], bent["t2"], config=config)
    found.save(tmp_path / "out")
    assert not (tmp_path / "out/start.tfm").exists() and not (tmp_path / "out/1Warp.nii.gz").exists()
    start, forward = (sitk.ReadTransform(str(tmp_path / f"out/{name}.h5")) for name in ("start", "forward"))
    point = scans["t1"].TransformIndexToPhysicalPoint((12, 15, 9))
    assert start.TransformPoint(point) == pytest.approx(init.TransformPoint(point), abs=1e-3)
    assert forward.TransformPoint(point) == pytest.approx(found.forward.TransformPoint(point), abs=1e-3)
    assert forward.TransformPoint((900.0, 0.0, 0.0)) == pytest.approx((904.0, 0.0, 0.0))


@pytest.mark.parametrize("ending", ["nii.gz", "h5"])
def test_itk_moves_the_scan_by_what_is_written(scans, shifted, written, ending):
    out, _, _ = written
    transform = read_back(out, "forward", ending)
    ours = image_tensor(sitk.ReadImage(str(out / "moved.nii.gz")))
    theirs = image_tensor(
        sitk.Resample(
            shifted, scans["t1"], transform, sitk.sitkLinear, image_tensor(shifted).min().item(), sitk.sitkFloat32
        )
    )
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
    assert ours.std() > 0.5 * image_tensor(shifted).std()


@pytest.mark.parametrize("ending", ["nii.gz", "h5"])
def test_the_inverse_brings_points_back(scans, brain, written, ending):
    out, found, _ = written
    back = read_back(out, "inverse", ending)
    points = [scans["t1"].TransformIndexToPhysicalPoint(index) for index in brain.nonzero()[::97].tolist()]
    distances = [
        np.linalg.norm(np.subtract(back.TransformPoint(found.forward.TransformPoint(point)), point)) for point in points
    ]
    assert np.median(distances) < 0.5 * 5 and np.percentile(distances, 95) < 5


def test_labels_of_one_scan_alone_are_reported(scans, bent, plain):
    values = [int(value) for value in image_tensor(scans["labels_neuromorphometrics"]).unique() if value > 0]
    ours, theirs = (
        sitk.Cast(scans["labels_neuromorphometrics"], sitk.sitkInt32),
        sitk.Cast(bent["labels"], sitk.sitkInt32),
    )
    ours, theirs = (sitk.ChangeLabel(labels, {gone: 0}) for labels, gone in ((ours, values[0]), (theirs, values[1])))
    metrics = measure(plain, fixed_labels=ours, moving_labels=theirs)
    assert metrics["one_sided_labels"] == values[:2]
    for name in ("dice", "dice_before", "hd95_mm"):
        assert set(metrics[name]) == {str(value) for value in values[2:]}


def test_landmarks_are_measured_in_millimetres(scans, truth, brain, plain):
    indices = brain.nonzero()[::211]
    grid = scans["t1"]
    inverse = invert(truth)
    fixed = np.array([grid.TransformIndexToPhysicalPoint(index) for index in indices.tolist()])
    moving = np.array(
        [
            grid.TransformContinuousIndexToPhysicalPoint((index + inverse[(slice(None), *index)]).double().tolist())
            for index in indices
        ]
    )
    metrics = measure(plain, fixed_points_mm=fixed, moving_points_mm=moving)
    assert metrics["tre_before_mm"] == pytest.approx(np.linalg.norm(moving - fixed, axis=1), abs=2e-3)
    assert np.median(metrics["tre_mm"]) < 0.5 * np.median(metrics["tre_before_mm"])


def test_too_little_memory_is_refused_with_what_it_takes(scans, bent):
    with pytest.raises(InputError) as caught:
        register(scans["t1"], bent["t2"], config=PLAIN, memory=10_000_000)
    said = str(caught.value)
    assert (
        re.search(r"takes at least [\d.]+[MG]B of memory", said)
        and "found a limit of 9.537MB" in said
        and "\n" not in said
    )


def test_less_memory_makes_settings_smaller_and_never_larger():
    net, shape, sizes = (
        UNet().eval(),
        (200, 180, 160),
        [size * 2**20 for size in (60_000, 6000, 3000, 2000, 1200, 900, 800)],
    )
    budgets = [fit_to_memory(shape, 2**26, DescriptorConfig(), ConvexAdamConfig(), net, size) for size in sizes]
    assert (
        budgets[0].descriptors == DescriptorConfig()
        and budgets[0].solver == ConvexAdamConfig()
        and budgets[0].voxels == prod(shape)
    )
    assert all(budget.needed_bytes <= size for budget, size in zip(budgets, sizes, strict=True))
    for values in (
        [budget.voxels for budget in budgets],
        [budget.descriptors.side for budget in budgets],
        [budget.descriptors.channels or budget.descriptors.count(net) for budget in budgets],
        [budget.solver.reach for budget in budgets],
        [-budget.solver.grid_spacing for budget in budgets],
        [-budget.solver.adam_spacing for budget in budgets],
    ):
        assert values == sorted(values, reverse=True)
    cubes = next(budget for budget in budgets if budget.solver.adam_spacing == 2)
    assert cubes.voxels == prod(shape), "the descent is made coarser before the working grid is"
    assert budgets[-1].descriptors.side < 128 and budgets[-1].needed_bytes < budgets[0].needed_bytes * 0.6


def test_fast_works_on_fewer_voxels_of_thick_slices_and_the_log_says_what_they_cost(caplog):
    values = torch.rand((40, 40, 14), generator=torch.Generator().manual_seed(0))
    thick = sitk.GetImageFromArray(values.T.numpy())
    thick.SetSpacing((1.0, 1.0, 4.0))
    found = {}
    with caplog.at_level("INFO"):
        for fast in (False, True):
            config = RegistrationConfig(init="none", descriptors=MIND, fast=fast)
            found[fast] = register(thick, thick, config=config)
    assert found[True].grid.GetSpacing() == pytest.approx((2, 2, 2))
    assert found[False].grid.GetSpacing() == pytest.approx((1, 1, 1))
    costs = [record.getMessage() for record in caplog.records if "working grid:" in record.getMessage()]
    assert "40 x 40 x 53 voxels of 1 x 1 x 1 mm (0.085 million), descent on every voxel;" in costs[0]
    assert "21 x 21 x 27 voxels of 2 x 2 x 2 mm (0.012 million), descent on every voxel;" in costs[1]


def test_fast_keeps_the_grid_of_nearly_cubic_voxels_and_a_given_spacing():
    assert RegistrationConfig(fast=True).working_spacing_mm((1.0, 1.0, 1.4)) is None
    assert RegistrationConfig(fast=True, spacing_mm=1.5).working_spacing_mm((1.0, 1.0, 4.0)) == 1.5


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (PLAIN, "convexadam-mind"),
        (RegistrationConfig(), "convexadam-mind+features"),
        (RegistrationConfig(descriptors=DescriptorConfig(mind=False)), "convexadam-features"),
        (RegistrationConfig(solver="ants"), "ants-features"),
        (RegistrationConfig(solver="ants", descriptors=MIND), "ants-mi"),
    ],
)
def test_methods_have_names(config, name):
    assert config.method == name


def test_weights_make_the_features(scans, bent):
    config = RegistrationConfig(
        init="none", spacing_mm=10, descriptors=DescriptorConfig(mind=False, side=32), convexadam=SOLVER
    )
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(UNet(UNetConfig(width=2, poolings=2, out_channels=4)).eval())
    first, second, again = (
        register(scans["t1"], bent["t2"], config=config, features=net).displacement for net in (*nets, nets[0])
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_start_that_bends_is_undone_as_well(scans, bent, truth, brain, tmp_path):
    # One half is in the file, the solver finds the rest.
    half = itk_transform(0.5 * invert(truth), scans["t1"]).GetDisplacementField()
    sitk.WriteImage(half, str(tmp_path / "half.nii.gz"))
    config = RegistrationConfig(init=str(tmp_path / "half.nii.gz"), descriptors=MIND, convexadam=SOLVER)
    found = register(scans["t1"], bent["t2"], config=config)
    assert found.start.name == "file" and halved(found, truth, scans, brain)
    points = [scans["t1"].TransformIndexToPhysicalPoint(index) for index in brain.nonzero()[::97].tolist()]
    distances = [
        np.linalg.norm(np.subtract(found.inverse.TransformPoint(found.forward.TransformPoint(point)), point))
        for point in points
    ]
    assert np.median(distances) < 0.5 * 5


def test_another_spacing_is_worked_at(scans, bent, truth, brain):
    config = RegistrationConfig(init="none", spacing_mm=6.0, descriptors=MIND, convexadam=SOLVER)
    found = register(scans["t1"], bent["t2"], config=config)
    assert found.grid.GetSpacing() == (6, 6, 6) and found.moved.GetSize() == scans["t1"].GetSize()
    assert halved(found, truth, scans, brain)


def test_scans_of_few_voxels_are_refused(scans, bent):
    config = RegistrationConfig(init="none", spacing_mm=90.0, descriptors=MIND, convexadam=SOLVER)
    with pytest.raises(InputError, match="expected at least 4 along every axis; set a finer spacing"):
        register(scans["t1"], bent["t2"], config=config)


def test_masks_that_meet_nowhere_are_refused():
    scan = sitk.GetImageFromArray(np.random.default_rng(0).random((24, 26, 28)).astype(np.float32))
    low, high = sitk.Image(scan.GetSize(), sitk.sitkUInt8), sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    low[:, :, :8], high[:, :, 14:] = 1, 1
    config = RegistrationConfig(init="none", descriptors=DescriptorConfig(feature_weight=0))
    with pytest.raises(InputError, match="masks of the fixed and moving scan do not overlap"):
        register(scan, scan, config=config, fixed_mask=low, moving_mask=high)


@pytest.mark.parametrize("poolings", [4, 5])
def test_any_memory_is_kept_to_or_refused(poolings):
    """Fitting ends for any memory; windows stay as large as the network needs."""
    net, kept = UNet(UNetConfig(width=4, poolings=poolings)), 0
    for memory in range(400 * 2**20, 1200 * 2**20, 9 * 2**20):
        try:
            budget = fit_to_memory((180, 200, 190), 10**8, DescriptorConfig(), ConvexAdamConfig(), net, memory)
        except InputError:
            assert not kept  # more memory never serves worse
            continue
        kept += 1
        assert budget.needed_bytes <= memory and budget.descriptors.side >= net.config.min_side
    assert kept
