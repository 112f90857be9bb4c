"""Label propagation on small anatomies: from registered atlases to a folder of predictions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, stats

import nnunet_anatomix.propagation.folder as folder_module
from nnunet_anatomix.cli import main
from nnunet_anatomix.propagation.leave_one_out import LeftOutScore, choose, evenly, interval_of_mean
from nnunet_anatomix.propagation.presets import PRESETS, distinct_presets, spacing_mm
from nnunet_anatomix.propagation.propagate import Atlas, Resources, propagate, rank_atlases
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.common.errors import InputError, Interrupted

SIDE = 20
MIND = RegistrationConfig(descriptors=DescriptorConfig(feature_weight=0))


def anatomy(seed: int, contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan and its labels, (Z, Y, X): two ellipsoids in a body, moved per seed."""
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    labels = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    body = (z / 0.9) ** 2 + (y / 0.8) ** 2 + (x / 0.85) ** 2 < 1
    for value, middle, radii in ((1, (0.1, 0.1, -0.35), (0.45, 0.3, 0.25)), (2, (-0.1, 0, 0.4), (0.3, 0.4, 0.25))):
        middle = np.array(middle) + random.uniform(-0.08, 0.08, 3)
        inside = sum(((axis - m) / r) ** 2 for axis, m, r in zip((z, y, x), middle, radii, strict=True)) < 1
        labels[inside] = value
    tissue = np.array([1.0, 2.0, 3.0])[labels] * body
    texture = 0.1 * ndimage.gaussian_filter(np.random.default_rng(99).standard_normal(labels.shape), 1)
    scan = ndimage.gaussian_filter(contrast * tissue, 0.7) + texture + 0.02 * random.standard_normal(labels.shape)
    return scan.astype(np.float32), labels


def atlas(seed: int, contrast: float = 1.0) -> Atlas:
    scan, labels = anatomy(seed, contrast)
    return Atlas(name=f"a{seed}", channels=(sitk.GetImageFromArray(scan),), labels=labels.transpose(2, 1, 0).copy())


@pytest.fixture(scope="module")
def others() -> list[Atlas]:
    return [atlas(seed) for seed in (1, 2, 3)]


def mean_dice(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean(list(dice_by_label(truth, found).values())))


def test_labels_of_others_find_those_of_a_new_scan(others):
    new = atlas(7)
    result = propagate(new.channels, others, None, resources=Resources())
    overlap_before = np.mean([mean_dice(new.labels, other.labels) for other in others])
    assert mean_dice(new.labels, result.labels) > max(0.85, overlap_before + 0.05)
    assert 0.8 < result.agreement <= 1 and set(result.agreement_by_label) == {1, 2}
    assert result.atlases == ("a1", "a2", "a3")
    # Voxels on which the atlases agree are right more often than the others.
    wrong = result.labels != new.labels
    assert wrong[result.agreement_map < 0.9].mean() > 3 * wrong[result.agreement_map >= 0.9].mean()


def test_the_difference_grows_with_noise_and_the_dice_falls(others):
    random = np.random.default_rng(5)
    differences, dice = [], []
    for noise in (0.0, 0.3, 1.0):
        new, (scan, _) = atlas(7), anatomy(7)
        noisy = sitk.GetImageFromArray(scan + noise * random.standard_normal(scan.shape).astype(np.float32))
        result = propagate([noisy], others[:2])
        differences.append(result.difference)
        dice.append(mean_dice(new.labels, result.labels))
    assert differences == sorted(differences) and dice == sorted(dice, reverse=True)


def test_a_second_channel_takes_part(others):
    def with_noise(one: Atlas, seed: int) -> Atlas:
        noise = np.random.default_rng(seed).standard_normal((SIDE,) * 3).astype(np.float32)
        empty = sitk.GetImageFromArray(noise)
        return Atlas(name=one.name, channels=(empty, *one.channels), labels=one.labels)

    new = with_noise(atlas(7), 100)
    result = propagate(new.channels, [with_noise(one, n) for n, one in enumerate(others)])
    assert mean_dice(new.labels, result.labels) > 0.8, "the first channel is noise, the second shows all"
    with pytest.raises(InputError, match="expected 2 channels, as in the atlas a1, found 1"):
        propagate(atlas(7).channels, [with_noise(others[0], 0)])


def test_without_atlases_there_is_one_line():
    with pytest.raises(InputError, match="at least one labelled scan"):
        propagate(atlas(7).channels, [])


def test_an_atlas_that_shows_the_same_is_ranked_first(others):
    noise = Atlas(
        name="noise",
        channels=(sitk.GetImageFromArray(np.random.default_rng(0).standard_normal((SIDE,) * 3).astype(np.float32)),),
        labels=others[0].labels,
    )
    ranked = rank_atlases(atlas(1).channels, [noise, others[0]], MIND, Resources())
    assert ranked == ["a1", "noise"]


def test_presets_refine_small_scans_and_coarsen_large_ones():
    small, large = sitk.Image([40, 50, 30], sitk.sitkUInt8), sitk.Image([400, 400, 300], sitk.sitkUInt8)
    for preset, voxels in PRESETS.items():
        assert spacing_mm(preset, small) == pytest.approx(0.7)
        assert 400 * 400 * 300 / spacing_mm(preset, large) ** 3 == pytest.approx(voxels)
    assert distinct_presets(PRESETS, [small]) == ("fast",), "all presets use the finest grid"
    assert distinct_presets(PRESETS, [small, large]) == tuple(PRESETS)


def score(case: str, dice: float, fusion: str = "vote") -> LeftOutScore:
    return LeftOutScore(case=case, preset="fast", fusion=fusion, label="l", dice=dice, agreement=0.5, difference=0.1)


def test_the_best_settings_are_chosen_by_their_mean_over_scans():
    expected = choose([score("a", 0.5), score("b", 0.9), score("a", 0.75, "local"), score("b", 0.7, "local")])
    assert (expected.fusion, expected.dice, expected.scans) == ("local", pytest.approx(0.725), 2)
    assert "Dice 0.725" in str(expected)
    nothing = choose([score("a", 0.4), score("b", float("nan"))])
    assert nothing.scans == 1 and isnan(nothing.low) and "interval" not in str(nothing)


def test_the_interval_is_students():
    values = [0.7, 0.8, 0.75]
    assert interval_of_mean(values) == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)), abs=1e-9
    )


def test_cases_to_leave_out_are_spread_over_all():
    assert evenly("abcdefghi", 3) == ("a", "e", "i")
    assert evenly("ab", 5) == ("a", "b") and evenly("ab", 0) == ()


@pytest.fixture
def dataset(nnunet):
    """A dataset of two labelled and two other scans, regions and an ignore label."""
    folder = nnunet.raw / "Dataset044_Organs"
    for part, seeds in (("Tr", (1, 2)), ("Ts", (7, 8))):
        for seed in seeds:
            scan, labels = anatomy(seed)
            labels[0] = 3 * (part == "Tr")
            for kind, name, array in (("images", f"c{seed}_0000", scan), ("labels", f"c{seed}", labels)):
                path = folder / f"{kind}{part}" / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = sitk.GetImageFromArray(array)
                image.SetSpacing((1.0, 1.25, 1.5))
                image.SetOrigin((-20.0, 30.0, 5.0))
                sitk.WriteImage(image, str(path))
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "both": [1, 2], "second": [2], "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def run(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "propagate", *map(str, words)])
    main()


def test_a_folder_is_labelled_as_nnunet_would_and_resumes(dataset, tmp_path, monkeypatch, capsys):
    out, words = tmp_path / "out", ("-d", 44, "-i", dataset / "imagesTs", "--preset", "fast", "-o", tmp_path / "out")
    written = folder_module.write_image
    stopped = []

    def stop_at_the_second(path, image):
        if path.name == "c8.nii.gz" and not stopped:
            stopped.append(path)
            raise KeyboardInterrupt
        written(path, image)

    monkeypatch.setattr(folder_module, "write_image", stop_at_the_second)
    with pytest.raises((Interrupted, SystemExit)):
        run(monkeypatch, *words)
    assert not (out / "c8.nii.gz").exists()
    first = (out / "c7.nii.gz").stat().st_mtime_ns
    run(monkeypatch, *words)
    assert (out / "c7.nii.gz").stat().st_mtime_ns == first, "finished scans are kept"
    for case in ("c7", "c8"):
        scan = sitk.ReadImage(str(dataset / "imagesTs" / f"{case}_0000.nii.gz"))
        found = sitk.ReadImage(str(out / f"{case}.nii.gz"))
        truth = sitk.ReadImage(str(dataset / "labelsTs" / f"{case}.nii.gz"))
        assert found.GetPixelID() == sitk.sitkUInt8 and found.GetOrigin() == scan.GetOrigin()
        assert found.GetSpacing() == scan.GetSpacing() and found.GetDirection() == scan.GetDirection()
        labels = sitk.GetArrayFromImage(found)
        assert set(np.unique(labels)) == {0, 1, 2}, "the ignore label is never predicted"
        assert mean_dice(sitk.GetArrayFromImage(truth), labels) > 0.8
        agreement = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "agreement" / f"{case}.nii.gz")))
        assert agreement.max() == 100
    rows = (out / "propagation.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("case,relative_difference,difference,agreement")
    assert all(0.3 < float(row.split(",")[1]) < 2 for row in rows[1:]), "as different as labelled scans are"
    assert "Expected on a new scan: Dice 0." in (out / "leave_one_out.md").read_text()
    assert (out / "overview.png").stat().st_size > 10_000 and (out / "dataset.json").is_file()
    # Other settings label the scans again.
    for file in (dataset / "imagesTs").glob("c8*"):
        file.unlink()
    run(monkeypatch, *words, "--leave-out", 0, "--fusion", "vote")
    assert (out / "c7.nii.gz").stat().st_mtime_ns > first


def test_labels_of_another_solver_are_made_again(monkeypatch):
    settings = folder_module.FolderSettings(
        preset="fast", fusion="local", descriptors=DescriptorConfig(feature_weight=0), resources=Resources()
    )
    before = settings.identity
    monkeypatch.setattr(folder_module, "SOLVER", replace(folder_module.SOLVER, smoothness=2.0))
    assert settings.identity != before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("-i", "nowhere"), "no folder"),
        (("-i", "{labelsTs}"), "expected scans named CASE_0000.nii.gz"),
        (("-i", "{imagesTs}", "--atlases", 0), "atlases"),
        (("-i", "{imagesTs}", "--leave-out", -1), "--leave-out: expected 0 or more"),
        (("-i", "{imagesTs}", "-o", "{imagesTs}"), "expected another folder"),
    ],
)
def test_bad_input_is_one_line(dataset, tmp_path, monkeypatch, words, line):
    words = [str(word).format(labelsTs=dataset / "labelsTs", imagesTs=dataset / "imagesTs") for word in words]
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "-d", 44, *(() if "-o" in words else ("-o", tmp_path / "out")), *words)
    # An uncaught SystemExit with a text prints it, and ends with exit code 1.
    assert line in str(stop.value.code) and "\n" not in str(stop.value.code)
    assert not (tmp_path / "out" / "propagation.csv").exists()


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(dataset, tmp_path, monkeypatch, capsys):
    (dataset / "imagesTs" / "broken_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        run(monkeypatch, "-d", 44, "-i", dataset / "imagesTs", "-o", tmp_path / "o", "--leave-out", 0)
    assert (tmp_path / "o" / "c7.nii.gz").exists() and (tmp_path / "o" / "c8.nii.gz").exists()
    assert "broken" in (tmp_path / "o" / "failed.csv").read_text()
