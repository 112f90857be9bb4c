"""Tests of the grid search: rows equal single registrations, reuse, resuming and summary."""

from __future__ import annotations

import csv
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.image import imread
from scipy import ndimage

from nnunet_anatomix.commands.search import registration_search
from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, descriptors
from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig, convex_adam
from nnunet_anatomix.registration.tuning import search
from nnunet_anatomix.registration.tuning.grid import Combination, SearchGrid
from nnunet_anatomix.registration.tuning.pairs import load_pair, read_search_pairs
from nnunet_anatomix.registration.tuning.report import Point, ResultRow, read_rows, summarize
from nnunet_anatomix.registration.tuning.search import grid_search
from nnunet_anatomix.registration.warp import identity, warp
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import save_weights
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.imaging.grids import image_tensor, resample_image, tensor_image

SHAPE = (24, 20, 28)
GRID = SearchGrid(smoothness=(0.5, 1.5), grid_spacing=(3, 4), reach=(2,), adam_spacing=(2,))
METHODS = {"mind": DescriptorConfig(feature_weight=0), "features": DescriptorConfig(feature_weight=0.3, side=16)}
SOLVER = ConvexAdamConfig(iterations=(20,))
HEADER = "name,fixed,moving,fixed_labels,moving_labels\n"
TINY = UNetConfig(width=2, poolings=2, out_channels=3)


def network() -> UNet:
    torch.manual_seed(1)
    return UNet(TINY).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write two pairs of blobs, the moving ones warped; label 9 is only in the fixed scans."""
    folder = tmp_path_factory.mktemp("pairs")
    grid = sitk.Image(SHAPE, sitk.sitkFloat32)
    grid.SetSpacing((1.5, 2.0, 1.0))
    grid.SetOrigin((3.0, -4.0, 5.0))
    x, y, z = identity(SHAPE)
    lines = []
    for number in range(2):
        rng = np.random.default_rng(number)
        noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
        volume = torch.from_numpy(noise / noise.std()).float()
        labels = (volume > 0.3).int() + (volume > 1).int()
        wave = (1.0 + 0.4 * number) * torch.stack([torch.sin(y / 4), torch.cos(z / 5), torch.sin(x / 6)])
        images = {
            "fixed": volume,
            "moving": warp(volume[None], wave, beyond="border")[0] ** 2,
            "fixed_labels": torch.where((x < 2) & (labels == 0), 9, labels),
            "moving_labels": warp(labels[None].float(), wave, mode="nearest")[0].int(),
        }
        for role, image in images.items():
            sitk.WriteImage(tensor_image(image, grid), str(folder / f"{number}_{role}.nii.gz"))
        lines.append(",".join([f"pair {number}", *(f"{number}_{role}.nii.gz" for role in images)]))
    (folder / "pairs.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return folder


def run(folder: Path, out: Path, grid: SearchGrid = GRID, **changes: object) -> str:
    pairs = read_search_pairs(folder / "pairs.csv")
    return grid_search(pairs, out, grid, **({"net": network(), "methods": METHODS, "solver": SOLVER} | changes))


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "search"
    run(folder, out)
    return out


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Record the names of the stages that a search runs."""
    calls = []

    def counted(name: str, stage: Callable) -> Callable:
        return lambda *args, **kwargs: (calls.append(name), stage(*args, **kwargs))[1]

    for name in ("load_pair", "descriptors", "search_stage", "descent_stage"):
        monkeypatch.setattr(search, name, counted(name, getattr(search, name)))
    return calls


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_is_a_registration(folder, done):
    rows = {row.key: row for row in read_rows(done / "results.csv")}
    assert len(rows) == len(lines(done)) == 2 * 2 * 4
    for row in rows.values():
        number = row.pair.split()[-1]
        images = {role: sitk.ReadImage(str(folder / f"{number}_{role}.nii.gz")) for role in ("fixed", "moving")}
        fixed, moving = (Scan(image=image_tensor(image)) for image in images.values())
        config = replace(SOLVER, **row.combination._asdict())
        described = descriptors(fixed, moving, METHODS[row.method], pool=config.pool, net=network())
        displacement = convex_adam(*described, SHAPE, config)
        truth, labels = (
            image_tensor(sitk.ReadImage(str(folder / f"{number}_{role}_labels.nii.gz"))) for role in ("fixed", "moving")
        )
        dice = dice_by_label(truth, warp(labels[None], displacement, mode="nearest")[0])
        assert row.dice == pytest.approx((dice[1] + dice[2]) / 2, abs=1e-6)
        assert row.folded_share == pytest.approx(folded_share(displacement), abs=1e-6)
        assert row.dice > row.dice_before
    assert {(row.pair, row.method, row.combination) for row in rows.values()} == {
        (pair, method, combination)
        for pair in ("pair 0", "pair 1")
        for method in METHODS
        for combination in GRID.combinations()
    }


def test_what_settings_share_is_computed_once(folder, tmp_path, calls):
    run(folder, tmp_path, replace(GRID, grid_spacing=(4,), adam_spacing=(2, 4)), methods={"mind": METHODS["mind"]})
    assert {name: calls.count(name) for name in calls} == {
        "load_pair": 2,
        "descriptors": 2 * 2,  # pools 2 and 4
        "search_stage": 2 * 2,
        "descent_stage": 2 * 2 * 2,
    }


def test_nothing_is_done_twice(folder, done, calls):
    before = {path.name: path.read_bytes() for path in done.iterdir()}
    run(folder, done)
    assert calls == []
    assert before["results.csv"] == (done / "results.csv").read_bytes()
    assert before["summary.md"] == (done / "summary.md").read_bytes()


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_killed_search_goes_on(folder, done, tmp_path, calls, caplog, cut):
    whole = (done / "results.csv").read_bytes()
    kept = whole[: -min(cut, len(whole) - 7)]
    (tmp_path / "results.csv").write_bytes(kept)
    with caplog.at_level(logging.WARNING):
        run(folder, tmp_path)
    assert "incomplete line" in caplog.text
    assert sorted(whole.splitlines()) == sorted((tmp_path / "results.csv").read_bytes().splitlines())
    assert calls.count("descent_stage") == len(whole.splitlines()) - max(1, kept.count(b"\n"))
    assert (tmp_path / "summary.csv").read_bytes() == (done / "summary.csv").read_bytes()


def test_a_request_to_stop_is_answered_at_once_and_keeps_what_is_finished(folder, tmp_path, monkeypatch):
    stage, asked = search.descent_stage, []

    def stopped_at_the_second(*args, **kwargs):
        asked.append(1)
        if len(asked) == 2:
            signal.raise_signal(signal.SIGTERM)
        return stage(*args, **kwargs)

    monkeypatch.setattr(search, "descent_stage", stopped_at_the_second)
    with pytest.raises(Interrupted, match="stopped at pair 1 of 2") as stopped:
        run(folder, tmp_path, methods={"mind": METHODS["mind"]})
    assert stopped.value.exit_code == 143
    assert len(lines(tmp_path)) == 1 and not (tmp_path / "summary.md").exists()


def test_a_pair_that_fails_is_listed_and_the_table_is_of_the_others(folder, tmp_path):
    mind, small = {"mind": METHODS["mind"]}, replace(GRID, grid_spacing=(4,))
    first, second = read_search_pairs(folder / "pairs.csv")
    alone = grid_search([second], tmp_path / "alone", small, methods=mind, solver=SOLVER)
    broken = replace(first, name="broken", moving=tmp_path / "no.nii.gz")
    with pytest.raises(CommandFailed, match=r"1 of 2 pairs failed .*broken: .*no\.nii\.gz"):
        grid_search([broken, second], tmp_path / "both", small, methods=mind, solver=SOLVER)
    assert (tmp_path / "both" / "summary.md").read_text() == alone
    assert "broken," in (tmp_path / "both" / "failed.csv").read_text()


def test_rows_of_other_settings_stay_and_take_no_part(folder, tmp_path, calls):
    small = replace(GRID, grid_spacing=(4,))
    mind = {"mind": METHODS["mind"]}
    first = run(folder, tmp_path, small, methods=mind)
    other = run(folder, tmp_path, small, methods=mind, solver=replace(SOLVER, iterations=(0,)))
    assert calls.count("descent_stage") == 8 and other != first
    assert len(lines(tmp_path)) == 8
    assert run(folder, tmp_path, small, methods=mind) == first
    run(folder, tmp_path, small, methods={"features": METHODS["features"]})
    other_net = UNet(TINY).eval()
    run(folder, tmp_path, small, methods={"features": METHODS["features"]}, net=other_net)
    assert calls.count("descent_stage") == 16


def test_the_summary_is_that_of_the_rows(done):
    table = [" ".join(line.split()) for line in (done / "summary.md").read_text().splitlines()]
    with (done / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    assert [one["method"] for one in summary] == list(METHODS)
    for one in summary:
        mine = [line for line in lines(done) if line["method"] == one["method"]]
        combinations = sorted({tuple(float(line[name]) for name in Combination._fields) for line in mine})
        by = {
            column: [
                np.mean(
                    [
                        float(line[column])
                        for line in mine
                        if tuple(float(line[name]) for name in Combination._fields) == which
                    ]
                )
                for which in combinations
            ]
            for column in ("dice", "folded_share")
        }
        for column, values in by.items():
            assert float(one[column]) == pytest.approx(np.mean([float(line[column]) for line in mine]), rel=1e-5)
            assert float(one[f"{column}_std"]) == pytest.approx(np.std(values), rel=1e-5, abs=1e-9)
        allowed = [place for place, folded in enumerate(by["folded_share"]) if folded < 0.005]
        best = max(allowed, key=lambda place: by["dice"][place])
        assert tuple(float(one[f"best_{name}"]) for name in Combination._fields) == combinations[best]
        assert float(one["best_dice"]) == pytest.approx(by["dice"][best], rel=1e-5)
        assert (int(one["pairs"]), int(one["combinations"])) == (2, 4)
        before, dice, std = (float(one[name]) for name in ("dice_before", "dice", "dice_std"))
        row = f"| {one['method']} | {before:.3f} | {dice:.3f} ± {std:.3f} | "
        assert any(line.startswith(row) for line in table)
    assert imread(done / "sweep.png").std() > 0.01


def test_the_best_settings_fold_little():
    def row(smoothness: float, dice: float, folded: float) -> ResultRow:
        names = {"pair": "a", "method": "mind", "settings": "", "grid_spacing": 4, "reach": 2, "adam_spacing": 1}
        return ResultRow(**names, smoothness=smoothness, dice_before=0.1, dice=dice, folded_share=folded)

    few, many = row(2.0, 0.6, 0.001), row(1.0, 0.9, 0.02)
    assert summarize([many, few])[0].best == Point(combination=few.combination, dice=0.6, folded_share=0.001)
    assert summarize([many])[0].best is None


def test_a_moving_scan_that_covers_part_of_the_fixed_one(folder, tmp_path):
    pair = read_search_pairs(folder / "pairs.csv")[0]
    cut = {role: sitk.ReadImage(str(getattr(pair, role)))[5:, :, 2:] for role in ("moving", "moving_labels")}
    for role, image in cut.items():
        sitk.WriteImage(image, str(tmp_path / f"{role}.nii.gz"))
    pair = replace(pair, **{role: tmp_path / f"{role}.nii.gz" for role in cut})
    loaded = load_pair(pair, torch.device("cpu"))
    assert (
        loaded.moving.known[5:, :, 2:].all()
        and not loaded.moving.known[:5].any()
        and not loaded.moving.known[..., :2].any()
    )
    assert loaded.labels == [1, 2]
    on_fixed = resample_image(cut["moving_labels"], sitk.ReadImage(str(pair.fixed)), nearest=True)
    assert torch.equal(loaded.moving_labels, image_tensor(on_fixed))
    assert grid_search(
        [pair], tmp_path / "out", replace(GRID, smoothness=(1.0,)), methods={"mind": METHODS["mind"]}, solver=SOLVER
    )


def test_what_counts_is_inside_the_masks(folder, tmp_path):
    plain = read_search_pairs(folder / "pairs.csv")[0]
    mask = torch.zeros(SHAPE)
    mask[3:] = 1
    grid = sitk.ReadImage(str(plain.fixed))
    sitk.WriteImage(tensor_image(mask, grid), str(tmp_path / "mask.nii.gz"))
    sitk.WriteImage(tensor_image(torch.zeros(SHAPE), grid), str(tmp_path / "empty.nii.gz"))
    cells = [
        "one",
        *(str(getattr(plain, role)) for role in ("fixed", "moving", "fixed_labels", "moving_labels")),
        str(tmp_path / "mask.nii.gz"),
    ]
    (tmp_path / "pairs.csv").write_text(f"{HEADER.strip()},fixed_mask,moving_mask\n{','.join(cells)},\n")
    (pair,) = read_search_pairs(tmp_path / "pairs.csv")
    loaded = load_pair(pair, torch.device("cpu"))
    assert torch.equal(loaded.fixed.known, mask) and loaded.moving.known is None
    loaded = load_pair(replace(pair, moving_mask=tmp_path / "mask.nii.gz"), torch.device("cpu"))
    assert torch.equal(loaded.moving.known, mask)
    assert pair.files.keys() - plain.files.keys() == {"fixed_mask"}, "and so a row of other masks is another row"
    with pytest.raises(InputError, match=r"one, fixed mask: empty"):
        load_pair(replace(pair, fixed_mask=tmp_path / "empty.nii.gz"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,fixed,moving\na,b,c\n",
            "columns fixed, moving, fixed_labels, moving_labels .*found name, fixed, moving",
        ),
        (HEADER + "a,{0},nowhere.nii,{0},{0}\n", "line 2 .*expected moving at .*nowhere.nii, found no such file"),
    ],
)
def test_bad_lists_of_pairs_are_one_clear_line(folder, tmp_path, text, message):
    file = tmp_path / "pairs.csv"
    file.write_text(text.format(folder / "0_fixed.nii.gz"))
    with pytest.raises(InputError, match=message) as error:
        read_search_pairs(file)
    assert "\n" not in str(error.value)


def test_other_bad_input_is_one_clear_line(folder, done, tmp_path):
    with pytest.raises(InputError, match="grid spacing: expected different numbers of at least 1, found \\(0,\\)"):
        SearchGrid(grid_spacing=(0,))
    with pytest.raises(InputError, match="smoothness: expected different numbers"):
        SearchGrid(smoothness=(1.0, 1.0))
    with pytest.raises(
        CommandFailed,
        match=r"2 of 2 pairs failed .*: pair 0: expected grid spacings of at most 20 voxels, .* found 21",
    ):
        run(folder, tmp_path, replace(GRID, grid_spacing=(21,)))
    with pytest.raises(CommandFailed, match=r"pair 0: reach 2000 at a grid spacing of 3 takes .* of memory"):
        run(folder, tmp_path, replace(GRID, reach=(2000,)))
    for content, message in (
        ("something,else\n1,2\n", "expected the header pair,method.*found something,else"),
        ((done / "results.csv").read_text() + "pair 0,mind\n", "line 18: .*remove that line"),
        ((done / "results.csv").read_text().replace("0.5,", "half,", 1), "line 2: .*remove that line"),
    ):
        (tmp_path / "results.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / "results.csv")


def test_the_command_searches(folder, tmp_path, caplog):
    save_weights(tmp_path / "tiny.safetensors", network().state_dict(), TINY, {"name": "tiny"})
    grid = {"smoothness": (1.0,), "grid_spacing": (4,), "reach": (1,), "adam_spacing": (2,)}
    options = {"weights": str(tmp_path / "tiny.safetensors"), "moving_clip": (-1.0, 3.0), "device": "cpu"}
    with caplog.at_level(logging.INFO):
        registration_search(folder / "pairs.csv", tmp_path / "out", **grid, **options)
    assert "| features | " in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.csv",
        "summary.md",
        "summary.csv",
        "sweep.png",
    }
    with pytest.raises(InputError, match="--methods: expected mind, features or both"):
        registration_search(folder / "pairs.csv", tmp_path / "out", methods=())


def test_the_papers_grid():
    combinations = SearchGrid().combinations()
    assert len(combinations) == len(set(combinations)) == 2 * 10 * 5 * 5
    assert combinations[0] == (0.25, 2, 1, 1) and combinations[-1] == (2.5, 6, 5, 2)
