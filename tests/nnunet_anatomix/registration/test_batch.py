"""Tests of batches: failures do not stop other pairs, results are reused, batches resume."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.registration.batch import BatchSettings, PairFiles, read_pairs, register_pair, register_pairs
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.verdict.batch_page import write_batch_page
from nnunet_anatomix.registration.warp import identity, warp
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights, load_weights, save_weights
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.common.lock import InUse
from pretraining.imaging.grids import tensor_image
from tests.in_process import run_here
from tests.pretraining.common.test_html_page import Reader

SHAPE = (30, 28, 34)
SOLVER = ConvexAdamConfig(grid_spacing=4, reach=2, iterations=(20,))
COMMON = BatchSettings(
    config=RegistrationConfig(init="none", descriptors=DescriptorConfig(feature_weight=0), convexadam=SOLVER),
    weights=None,
)
FLAGS = ("--features", "none", "--init", "none", "--grid-spacing", "4", "--reach", "2", "--device", "cpu")
BROKEN = "pair 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write six pairs of blobs, the moving ones warped, in another contrast, one truncated."""
    folder = tmp_path_factory.mktemp("pairs")
    grid = sitk.Image(SHAPE, sitk.sitkFloat32)
    grid.SetSpacing((1.5, 1.2, 1.0))
    grid.SetOrigin((3.0, -4.0, 5.0))
    x, y, z = identity(SHAPE)
    wave = 1.5 * torch.stack([torch.sin(y / 4), torch.cos(z / 5), torch.sin(x / 6)])
    lines = ["name,fixed,moving,fixed_labels,moving_labels"]
    for number in range(1, 7):
        noise = ndimage.gaussian_filter(np.random.default_rng(number).normal(size=SHAPE), 3)
        volume = torch.from_numpy(noise / noise.std()).float()
        labels = (volume > 0.3).int() + (volume > 1).int()
        images = {
            "fixed": volume,
            "moving": warp((5 - volume)[None], wave, beyond="border")[0],
            "fixed_labels": labels,
            "moving_labels": warp(labels[None].float(), wave, mode="nearest", beyond="border")[0].int(),
        }
        for role, image in images.items():
            sitk.WriteImage(tensor_image(image, grid), str(folder / f"{number}_{role}.nii.gz"))
        lines.append(",".join([f"pair {number}", *(f"{number}_{role}.nii.gz" for role in images)]))
    whole = (folder / "3_moving.nii.gz").read_bytes()
    (folder / "3_moving.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def batch(folder, tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of a batch and its error."""
    out = tmp_path_factory.mktemp("out") / "batch"
    with pytest.raises(CommandFailed) as caught:
        register_pairs(read_pairs(folder / "pairs.csv"), out, COMMON, progress=False)
    return out, str(caught.value)


def failures(out: Path) -> dict[str, str]:
    if not (out / "failed.csv").exists():
        return {}
    with (out / "failed.csv").open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def registered(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("*/registration.json"))


def test_a_pair_that_fails_stops_no_other(batch):
    out, said = batch
    assert registered(out) == [f"pair {number}" for number in (1, 2, 4, 5, 6)]
    assert said.startswith(f"1 of 6 pairs failed (all in {out}/failed.csv): pair 3: moving: ") and "\n" not in said
    ((name, why),) = failures(out).items()
    assert name == BROKEN and why in said and not (out / BROKEN).exists()


def test_pairs_are_aligned_and_measured(batch):
    errors = []
    for path in batch[0].glob("*/registration.json"):
        document = json.loads(path.read_text())
        dice, before = (np.mean(list(document["metrics"][name].values())) for name in ("dice", "dice_before"))
        assert dice > before + 0.03
        errors.append((1 - dice) / (1 - before))
        assert document["pair"] == path.parent.name and document["files"]["moving"].endswith("_moving.nii.gz")
        assert (path.parent / "moved_labels.nii.gz").is_file() and (path.parent / "overview.png").is_file()
        assert document["verdict"] in ("PASS", "WARN", "FAIL") and (path.parent / "registration.html").is_file()
    # Half of the voxels of these small scans lie within the descriptors' reach of a face.
    assert np.mean(errors) < 0.8, errors


def test_the_page_of_a_batch_lists_the_worst_first(batch, tmp_path):
    page = Reader((batch[0] / "registrations.html").read_text(encoding="utf-8"))
    listed = [text for text in page.texts if text.startswith("pair ")]
    assert listed[0] == BROKEN and sorted(listed) == [f"pair {number}" for number in range(1, 7)]
    levels = [text for text in page.texts if text in ("NO RESULT", "FAIL", "WARN", "PASS")]
    assert levels == sorted(levels, key=["NO RESULT", "FAIL", "WARN", "PASS"].index) and len(levels) == 6
    assert set(page.links) == {f"pair%20{number}/registration.html" for number in (1, 2, 4, 5, 6)}


def test_reports_of_other_versions_and_damaged_ones_are_listed_too(tmp_path):
    for name, text in (
        ("old", json.dumps({"pair": "old", "method": "m", "metrics": {"dice": {"1": 0.5}}})),
        ("cut", "{"),
        ("good", json.dumps({"pair": "good", "method": "m", "verdict": "PASS", "reason": "r"})),
        ("bad", json.dumps({"pair": "bad", "method": "m", "verdict": "FAIL", "reason": "because"})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "registration.json").write_text(text)
    assert list(write_batch_page(tmp_path, "registration.html").items()) == [("FAIL", 1), ("UNKNOWN", 2), ("PASS", 1)]
    texts = Reader((tmp_path / "registrations.html").read_text(encoding="utf-8")).texts
    assert [text for text in texts if text in ("old", "cut", "good", "bad")] == ["bad", "cut", "old", "good"]
    assert "because" in texts and "0.500" in texts and any("not a valid registration report" in text for text in texts)


def noted(calls: list[str], act: Callable[[PairFiles, Path], None] = lambda pair, out: None) -> Callable[..., dict]:
    """Return a mock registration that records its name and writes a minimal report."""

    def run(pair: PairFiles, out: Path, common: BatchSettings, *, progress: bool) -> dict:
        calls.append(pair.name)
        act(pair, out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "registration.json").write_text(json.dumps({"fingerprint": common.fingerprint(pair)}))
        return {}

    return run


@pytest.fixture
def own(folder, tmp_path) -> tuple[list[PairFiles], Path]:
    """Return pairs whose files may be changed, and a folder for results."""
    shutil.copytree(folder, tmp_path / "pairs")
    return read_pairs(tmp_path / "pairs" / "pairs.csv"), tmp_path / "out"


def ran(pairs: list[PairFiles], out: Path, common: BatchSettings = COMMON) -> list[str]:
    calls: list[str] = []
    assert register_pairs(pairs, out, common, progress=False, run=noted(calls)) == len(calls)
    return calls


def test_what_is_there_is_not_done_again(folder, batch):
    calls: list[str] = []
    pairs = [pair for pair in read_pairs(folder / "pairs.csv") if pair.name != BROKEN]
    before = {path: path.stat().st_mtime_ns for path in batch[0].rglob("*")}
    assert register_pairs(pairs, batch[0], COMMON, run=noted(calls)) == 0 and calls == []
    assert {path: path.stat().st_mtime_ns for path in batch[0].rglob("*")} == before


def test_what_failed_is_tried_again(folder, batch, tmp_path):
    shutil.copytree(batch[0], tmp_path / "out")
    assert ran(read_pairs(folder / "pairs.csv"), tmp_path / "out") == [BROKEN]


def test_a_failure_that_is_mended_leaves_no_trace(own, folder, tmp_path):
    pairs, out = own
    broken = next(pair for pair in pairs if pair.name == BROKEN)
    with pytest.raises(CommandFailed):
        register_pairs([broken], out, COMMON, progress=False)
    shutil.copy(folder / "4_moving.nii.gz", broken.moving)
    assert register_pairs([broken], out, COMMON, progress=False) == 1
    assert registered(out) == [BROKEN] and not failures(out)


def test_a_pair_that_fails_now_counts_as_done_no_longer(own):
    pairs, out = own
    ran(pairs[:1], out)
    pairs[0].moving.write_bytes(b"nothing")
    with pytest.raises(CommandFailed, match=r"1 of 1 pairs failed .*: pair 1: moving: .*1_moving\.nii\.gz: damaged"):
        register_pairs(pairs[:1], out, COMMON, progress=False)
    assert not registered(out)


def test_a_changed_file_is_registered_again(own):
    pairs, out = own
    assert ran(pairs, out) == [pair.name for pair in pairs] and ran(pairs, out) == []
    shutil.copy(pairs[0].moving, pairs[1].moving)
    os.utime(pairs[4].fixed_labels, ns=(1, 1))
    assert ran(pairs, out) == ["pair 2", "pair 5"]


def test_a_pair_that_gains_a_file_is_registered_again(own):
    pairs, out = own
    ran(pairs, out)
    pairs[2] = replace(pairs[2], fixed_mask=pairs[2].fixed_labels)
    assert ran(pairs, out) == ["pair 3"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[Weights]:
    """Return the weights of two tiny networks."""
    found, config = [], UNetConfig(width=2, poolings=2, out_channels=3)
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path_factory.mktemp("weights") / f"{seed}.safetensors"
        save_weights(path, UNet(config).state_dict(), config, {"name": f"seed {seed}"})
        found.append(load_weights(path))
    return found


def test_changed_settings_register_all_again(own, weights):
    pairs, out = own
    for change in (
        COMMON,
        replace(COMMON, config=replace(COMMON.config, convexadam=replace(SOLVER, smoothness=3.0))),
        replace(COMMON, config=replace(COMMON.config, descriptors=DescriptorConfig()), weights=weights[0]),
        replace(COMMON, config=replace(COMMON.config, descriptors=DescriptorConfig()), weights=weights[1]),
        replace(COMMON, fixed_clip=(0.0, 1.0)),
    ):
        assert len(ran(pairs, out, change)) == len(pairs)
        assert ran(pairs, out, change) == []


def test_weights_that_take_no_part_change_nothing(own, weights):
    pairs, out = own
    ran(pairs, out)
    assert ran(pairs, out, replace(COMMON, weights=weights[0])) == []


def test_a_changed_initial_transform_registers_all_again(own):
    pairs, out = own
    start = out.parent / "start.tfm"
    common = replace(COMMON, config=replace(COMMON.config, init=str(start)))
    for step in (1.0, 2.5):
        sitk.WriteTransform(sitk.TranslationTransform(3, (step, 0.0, 0.0)), str(start))
        assert len(ran(pairs, out, common)) == len(pairs)
    assert ran(pairs, out, common) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_batch_stops_at_once_and_goes_on(own, number):
    pairs, out = own
    calls: list[str] = []
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stopping(pair: PairFiles, out: Path) -> None:
        if pair.name == "pair 2":
            os.kill(os.getpid(), number)
            time.sleep(30)

    with pytest.raises(Interrupted, match="stopped at pair 2 of 6; run the same command again") as caught:
        register_pairs(pairs, out, COMMON, run=noted(calls, stopping))
    assert caught.value.exit_code == 128 + number
    assert calls == ["pair 1", "pair 2"] and registered(out) == ["pair 1"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert ran(pairs, out) == ["pair 2", "pair 3", "pair 4", "pair 5", "pair 6"]


def test_a_name_that_is_too_long_for_a_folder_fails_alone(own):
    pairs, out = own
    pairs[0] = replace(pairs[0], name="a" * 300)
    calls: list[str] = []
    with pytest.raises(CommandFailed, match="1 of 6 pairs failed"):
        register_pairs(pairs, out, COMMON, run=noted(calls))
    assert len(registered(out)) == 5 and "too long" in failures(out)["a" * 300]


def test_two_batches_in_one_folder_at_once_are_refused(own):
    pairs, out = own

    def second(pair: PairFiles, folder: Path) -> None:
        with pytest.raises(InUse, match=f"is in use by process {os.getpid()}"):
            register_pairs(pairs, out, COMMON, run=noted([]))

    assert register_pairs(pairs[:1], out, COMMON, run=noted([], second)) == 1


@pytest.mark.parametrize("error", [InputError("no\nscan"), RuntimeError("ITK"), OSError("disk"), MemoryError()])
def test_whatever_fails_is_written_in_one_line(own, error):
    def failing(pair: PairFiles, out: Path) -> None:
        if pair.name == "pair 1":
            raise error

    pairs, out = own
    calls: list[str] = []
    with pytest.raises(CommandFailed, match="1 of 6"):
        register_pairs(pairs, out, COMMON, run=noted(calls, failing))
    assert len(calls) == 6
    assert failures(out) == {"pair 1": " ".join(str(error).split()) or "MemoryError"}


def test_pairs_are_read_relative_to_their_table(tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "\ufefffixed,moving,init\na.nii.gz,b/c.nii.gz,\n/d.nii.gz,e.mha,start.tfm\n", encoding="utf-8"
    )
    first, second = read_pairs(tmp_path / "pairs.csv")
    assert first == PairFiles(name="pair001", fixed=tmp_path / "a.nii.gz", moving=tmp_path / "b" / "c.nii.gz")
    assert second == PairFiles(
        name="pair002", fixed=Path("/d.nii.gz"), moving=tmp_path / "e.mha", init=tmp_path / "start.tfm"
    )


def test_unknown_columns_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("fixed,moving,fixed_maks\na,b,c\n")
    with pytest.raises(
        InputError, match=r"pairs: expected a CSV with the columns fixed, moving .*found fixed, moving, fixed_maks"
    ):
        read_pairs(tmp_path / "pairs.csv")


def test_landmarks_come_in_pairs(own, tmp_path):
    pairs, out = own
    (tmp_path / "two.csv").write_text("x,y,z\n5,5,10\n6,7,12\n")
    (tmp_path / "one.csv").write_text("x,y,z\n5,5,10\n")
    for names in (("two.csv", "one.csv"), ("two.csv", None)):
        points = {
            f"{role}_landmarks": name and tmp_path / name for role, name in zip(("fixed", "moving"), names, strict=True)
        }
        with pytest.raises(InputError, match="landmarks"):
            register_pair(replace(pairs[0], **points), out / "pair 1", COMMON, progress=False)
    assert not out.exists()


command = partial(run_here, "nnunet-anatomix")


def test_a_batch_and_its_table_by_command(folder, tmp_path):
    lines = (folder / "pairs.csv").read_text().splitlines()
    shutil.copytree(folder, tmp_path / "pairs")
    (tmp_path / "pairs" / "some.csv").write_text("\n".join([lines[0], *lines[3:5]]) + "\n")
    out = tmp_path / "out"
    result = command("register", "--pairs", str(tmp_path / "pairs" / "some.csv"), "--out", str(out), *FLAGS)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        f"nnunet-anatomix: 1 of 2 pairs failed (all in {out}/failed.csv): pair 3: moving: "
    )
    assert registered(out) == ["pair 4"]
    table = command("evaluate", "registration", str(out))
    assert table.returncode == 0 and "convexadam-mind" in table.stderr and f"results are in {out}" in table.stderr


def test_one_pair_by_command(folder, tmp_path):
    out = tmp_path / "out"
    scans = [text for role in ("fixed", "moving") for text in (f"--{role}", str(folder / f"1_{role}.nii.gz"))]
    labels = [
        text for role in ("fixed", "moving") for text in (f"--{role}-labels", str(folder / f"1_{role}_labels.nii.gz"))
    ]
    result = command("register", *scans, *labels, "--out", str(out), *FLAGS)
    assert result.returncode == 0, result.stderr
    assert {"moved.nii.gz", "moved_labels.nii.gz", "forward.nii.gz", "inverse.nii.gz", "registration.json"} <= {
        path.name for path in out.iterdir()
    }
    assert json.loads((out / "registration.json").read_text())["pair"] == "out"
    assert "mean of 2 labels" in result.stderr and "registration.html" in result.stderr


def test_moved_labels_keep_type_and_values(folder, tmp_path):
    labels = sitk.Cast(sitk.ReadImage(folder / "1_moving_labels.nii.gz"), sitk.sitkUInt32) * 2_000_000_001
    sitk.WriteImage(labels, tmp_path / "labels.nii.gz")
    pair = PairFiles(
        name="a",
        fixed=folder / "1_fixed.nii.gz",
        moving=folder / "1_moving.nii.gz",
        moving_labels=tmp_path / "labels.nii.gz",
    )
    register_pair(pair, tmp_path / "out", COMMON, progress=False)
    moved = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out/moved_labels.nii.gz"))
    assert moved.dtype == np.uint32 and {*np.unique(moved)} == {0, 2_000_000_001, 4_000_000_002}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "use --fixed and --moving, or --pairs CSV"),
        (("--fixed", "a.nii.gz", "--moving", "b.nii.gz", "--features", "none"), "fixed: no such file a.nii.gz"),
        (("--pairs", "p.csv", "--fixed", "a.nii.gz"), "are columns of the CSV"),
    ],
)
def test_commands_that_cannot_work_end_in_one_line(tmp_path, flags, said, monkeypatch, capsys):
    from nnunet_anatomix import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "register", "--out", "out", *flags])
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_features_by_command(folder, tmp_path, weights):
    config = UNetConfig(width=2, poolings=2, out_channels=3)
    save_weights(tmp_path / "tiny.safetensors", weights[0].network().state_dict(), config, {"name": "tiny"})
    out = tmp_path / "f.nii.gz"
    result = command(
        "features", str(folder / "1_fixed.nii.gz"), "--out", str(out), "--weights", str(tmp_path / "tiny.safetensors")
    )
    assert result.returncode == 0, result.stderr
    found = sitk.ReadImage(str(out))
    assert found.GetSize() == SHAPE and found.GetNumberOfComponentsPerPixel() == 3
    assert (tmp_path / "f.png").is_file()
