"""Building of a bank gives the same bytes after any interruption and reports all unused files."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pretraining.bank.template_bank import TemplateBank
from pretraining.cli import main
from pretraining.common.errors import CommandFailed, InputError
from pretraining.templates import build as bank_parts
from pretraining.templates.build import SHOWN_PROBLEMS, build_bank
from pretraining.templates.procedural import procedural_bank
from tests.in_process import run_here
from tests.pretraining.templates.label_maps import box, save
from tests.process_server import PythonProcess

NOT_FINITE = np.ones((6, 6, 6), dtype=np.float32)
NOT_FINITE[2, 3, 4] = np.nan


def organs(path: Path) -> list[tuple[str, str]]:
    return sorted((entry.subject, entry.organ) for entry in TemplateBank.open(path).entries())


def cases(folder: Path, count: int = 5) -> Path:
    """Write different label maps, the second of them unusable."""
    for i in range(count):
        save(
            folder / f"case{i}.nii.gz",
            box(0, 3 + i % 8) + box(11, 14, (16, 14, 14) if i % 2 else (18, 15, 17), value=2)[:16, :14, :12],
        )
    save(folder / "case1.nii.gz", NOT_FINITE)
    (folder / "LICENSE").write_text("CC BY 4.0\nmore\n")
    (folder / "labels.json").write_text('{"cube": 1, "corner": 2}')
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_totalsegmentator_subject(tmp_path):
    folder = tmp_path / "ts" / "s0001" / "segmentations"
    for organ, mask in {
        "liver": box(2, 9),
        "rib_left_1": box(0, 3),
        "rib_right_12": box(6, 9),
        "vertebrae_L1": box(3, 6),
        "vertebrae_S1": box(8, 10),
        "costal_cartilages": box(4, 7),
        "spleen": box(0, 0),
        "gallbladder": box(2, 3),
    }.items():
        save(folder / f"{organ}.nii.gz", mask)
    (folder / "heart.nii.gz").write_bytes(b"not an image")
    report = build_bank([tmp_path / "ts"], tmp_path / "a.bank", licences=["CC BY 4.0"])
    assert [organ for _, organ in organs(tmp_path / "a.bank")] == ["costal_cartilages", "liver", "ribs", "vertebrae"]
    bank = TemplateBank.open(tmp_path / "a.bank")
    ribs = next(i for i, entry in enumerate(bank.entries()) if entry.organ == "ribs")
    assert bank.shape(ribs) == (9, 9, 9) and bank.mask(ribs).sum() == 54
    assert (bank.entry(ribs).source, bank.entry(ribs).subject, bank.entry(ribs).licence) == ("ts", "s0001", "CC BY 4.0")
    assert bank.subjects() == {("ts", "s0001"): (0, 1, 2, 3)}
    assert (report.template_count, report.templates_of_source, report.templates_of_licence) == (
        4,
        {"ts": 4},
        {"CC BY 4.0": 4},
    )
    assert {what.rsplit("/", 1)[-1]: kind for what, _, kind in report.rejected} == {
        "spleen.nii.gz": "empty",
        "heart.nii.gz": "unusable",
        "ts s0001: gallbladder": "small",
    }
    assert (tmp_path / "a.bank.report.txt").read_text() == f"{report}\n"
    assert all(
        text in str(report)
        for text in ("4 templates", "spleen.nii.gz: the mask is empty", "1 licence: CC BY 4.0"[2:], "organ: ribs")
    )


def test_binary_masks_of_a_plain_folder_belong_to_one_subject(tmp_path):
    save(tmp_path / "patient" / "liver.nii.gz", box(2, 9))
    save(tmp_path / "patient" / "rib_left_1.nii.gz", box(0, 3))
    save(tmp_path / "patient" / "rib_left_2.nii.gz", box(9, 12, shape=(16, 14, 14)))
    for i in range(2):
        save(tmp_path / "maps" / f"{i}.nrrd", box(0, 3) + box(4, 7, value=2))
    report = build_bank([tmp_path / "patient", tmp_path / "maps"], tmp_path / "a.bank")
    assert organs(tmp_path / "a.bank") == [
        *(("0", "label_1"), ("0", "label_2"), ("1", "label_1"), ("1", "label_2")),
        *(("patient", "liver"), ("patient", "ribs")),
    ]
    assert report.subject_count == 3 and "differs" in report.rejected[0].why


def test_axes_and_spacing(tmp_path):
    labels = np.zeros((20, 10, 8), dtype=np.uint8)
    labels[2:18, 3:7, 1:7] = 1
    path = save(tmp_path / "a.mha", labels, 3.0)
    build_bank([path], tmp_path / "a.bank")
    entry = TemplateBank.open(tmp_path / "a.bank").entry(0)
    assert entry.shape == (32, 8, 12) and entry.offset == (4, 6, 2) and entry.organ == "a"


def test_bank_and_report_depend_on_nothing_but_the_files(tmp_path):
    cases(tmp_path / "maps")
    reports = [build_bank([tmp_path / "maps"], tmp_path / f"{n}.bank", processes=n) for n in (1, 2, 3)]
    assert reports[0] == reports[1] == reports[2]
    for kind in ("bank", "bank.report.txt"):
        assert len({(tmp_path / f"{n}.{kind}").read_bytes() for n in (1, 2, 3)}) == 1
    assert reports[0].template_count == 8 and [line.why for line in reports[0].rejected] == [
        "1 voxel is NaN on disk; replace them by the background's value"
    ]
    assert not list(tmp_path.glob("*.parts"))


@pytest.fixture
def read_subjects(monkeypatch) -> list[str]:
    """Collect the names of the subjects that this process reads."""
    read: list[str] = []
    usual = bank_parts.read_group

    def noted(group, *arguments):
        read.append(group.subject)
        return usual(group, *arguments)

    monkeypatch.setattr(bank_parts, "read_group", noted)
    return read


def test_a_build_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, read_subjects):
    source, bank = cases(tmp_path / "maps"), tmp_path / "a.bank"
    build_bank([source], tmp_path / "whole.bank")
    assert read_subjects == [f"case{i}" for i in range(5)]
    write_bank = bank_parts.write_bank

    def stopped(path, *arguments, **options):
        if len(read_subjects) == 8:
            raise KeyboardInterrupt
        return write_bank(path, *arguments, **options)

    monkeypatch.setattr(bank_parts, "write_bank", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_bank([source], bank)
    monkeypatch.setattr(bank_parts, "write_bank", write_bank)
    assert not bank.exists() and len(list((tmp_path / "a.bank.parts").glob("*.part"))) == 2
    # What has changed since is read again, and so is what the disk did not keep.
    os.utime(source / "case0.nii.gz", ns=(1, 1))
    read_subjects.clear()
    report = build_bank([source], bank)
    assert read_subjects == ["case0", "case2", "case3", "case4"]
    assert (
        bank.read_bytes() == (tmp_path / "whole.bank").read_bytes()
        and f"{report}\n" == (tmp_path / "whole.bank.report.txt").read_text()
    )
    assert not (tmp_path / "a.bank.parts").exists()


@pytest.mark.parametrize("changed", ["spacing", "licence", "labels.json", "damage"])
def test_a_finished_subject_is_used_for_what_it_was_read_for_alone(tmp_path, monkeypatch, read_subjects, changed):
    source, bank = cases(tmp_path / "maps"), tmp_path / "a.bank"
    with monkeypatch.context() as patch:
        patch.setattr("pretraining.templates.build._iterate_templates", lambda *_arguments, **_options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_bank([source], bank)
    read_subjects.clear()
    arguments = {}
    if changed == "spacing":
        arguments["spacing_mm"] = 2.0
    elif changed == "licence":
        (source / "LICENSE").write_text("CC0")
    elif changed == "labels.json":
        (source / "labels.json").write_text('{"cube": 2, "corner": 1}')
    else:
        for part in (tmp_path / "a.bank.parts").iterdir():
            content = part.read_bytes()
            part.write_bytes(content[:17] + bytes([content[17] ^ 1]) + content[18:])
    build_bank([source], bank, **arguments)
    assert read_subjects == [f"case{i}" for i in range(5)]
    build_bank([source], tmp_path / "fresh.bank", **arguments)
    assert bank.read_bytes() == (tmp_path / "fresh.bank").read_bytes()


BUILD = """import multiprocessing, sys, threading, time
from pathlib import Path
from pretraining.templates.build import build_bank
def tell():
    while True:
        Path(sys.argv[3]).write_text(" ".join(str(worker.pid) for worker in multiprocessing.active_children()))
        time.sleep(0.02)
threading.Thread(target=tell, daemon=True).start()
build_bank([Path(sys.argv[1])], Path(sys.argv[2]), processes=2)"""


def build_until(parts: Path, count: int, source: Path, bank: Path) -> PythonProcess:
    """Start a build that writes its workers' numbers; return when ``count`` parts exist."""
    build = PythonProcess([sys.executable, "-c", BUILD, source, bank, bank.parent / "workers"])
    while len(list(parts.glob("*.part"))) < count:
        assert build.poll() is None, build.communicate()
        time.sleep(0.01)
    return build


def test_killed_processes_cost_nothing_that_was_finished(tmp_path):
    bank, parts = tmp_path / "a.bank", tmp_path / "a.bank.parts"
    rng = np.random.default_rng(0)
    for i in range(16):
        save(tmp_path / "maps" / f"case{i:02d}.nii.gz", rng.integers(0, 30, (90, 80, 70), dtype=np.uint8))
    (tmp_path / "maps" / "labels.json").write_text("{}")

    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in parts.glob("*.part")}

    with build_until(parts, 3, tmp_path / "maps", bank) as build:
        build.kill()
    first = kept()
    assert 3 <= len(first) < 16 and not bank.exists()
    with build_until(parts, len(first) + 2, tmp_path / "maps", bank) as build:
        while not (workers := (tmp_path / "workers").read_text().split()):
            time.sleep(0.01)
        os.kill(int(workers[0]), signal.SIGKILL)  # what the kernel does when memory runs out
        _, said = build.communicate()
    assert build.returncode != 0 and "a reading process was killed" in said.splitlines()[-1]
    second = kept()
    assert first.items() <= second.items() and len(first) + 2 <= len(second) < 16 and not bank.exists()
    build_bank([tmp_path / "maps"], bank)
    build_bank([tmp_path / "maps"], tmp_path / "whole.bank")
    assert bank.read_bytes() == (tmp_path / "whole.bank").read_bytes() and names(tmp_path)[:2] == [
        "a.bank",
        "a.bank.report.txt",
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("room_for", [2, 5])
def test_a_full_disk_is_one_line_and_the_older_bank_stays(tmp_path, monkeypatch, code, room_for):
    source, bank = cases(tmp_path / "maps"), tmp_path / "a.bank"
    build_bank([source / "case0.nii.gz"], bank)
    older, synced, usual = bank.read_bytes(), [], os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):  # a folder whose file was renamed
            return
        if len(synced) == room_for:  # five subjects, then the bank
            raise OSError(code, os.strerror(code))
        synced.append(handle)
        usual(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        CommandFailed, match=rf"no space left .*{room_for} finished subjects are kept in .*a\.bank\.parts"
    ) as error:
        build_bank([source], bank)
    monkeypatch.setattr(os, "fsync", usual)
    assert "\n" not in str(error.value) and bank.read_bytes() == older
    assert (
        names(tmp_path) == ["a.bank", "a.bank.parts", "a.bank.report.txt", "maps"]
        and len(names(tmp_path / "a.bank.parts")) == room_for
    )
    assert build_bank([source], bank).template_count == 8


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (NOT_FINITE, "NaN"),
        (np.full((6, 6, 6), -1000, dtype=np.int16), "negative"),
        (np.ones((3, 6, 6, 6), dtype=np.uint8), "three dimensions"),
        (box(0, 1), "fewer than 8"),
        (box(0, 0), "the mask is empty"),
    ],
)
def test_sources_of_nothing_usable_are_an_error_of_one_line(tmp_path, array, reason):
    for name in ("x", "y"):
        save(tmp_path / "in" / f"{name}.nii.gz", array)
    with pytest.raises(InputError, match=f"nothing usable among the . template sources: .*{reason}") as error:
        build_bank([tmp_path / "in"], tmp_path / "out" / "a.bank")
    assert "\n" not in str(error.value) and not list((tmp_path / "out").iterdir())


def test_one_bad_file_among_many_and_a_report_that_names_them_all(tmp_path, caplog):
    for i in range(SHOWN_PROBLEMS + 15):
        save(tmp_path / "maps" / f"bad{i:02d}.nrrd", NOT_FINITE)
    save(tmp_path / "maps" / "good.nrrd", box(2, 9) + box(9, 12, value=2))
    (tmp_path / "maps" / "labels.json").write_text("[1, 2]")
    with caplog.at_level(logging.INFO):
        report = build_bank([tmp_path / "maps"], tmp_path / "a.bank")
    assert (
        report.template_count == 2 and len(report.rejected) == SHOWN_PROBLEMS + 16
    )  # labels.json once, not for each file
    assert caplog.text.count("not used: ") == SHOWN_PROBLEMS and "16 more are not used" in caplog.text
    text = (tmp_path / "a.bank.report.txt").read_text()
    assert all(f"bad{i:02d}.nrrd: 1 voxel is NaN on disk" in text for i in range(SHOWN_PROBLEMS + 15))
    summary = report.summary()
    assert len(summary.splitlines()) < 20 and "... and 26 more" in summary and "36 not usable" in summary


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"spacing_mm": 0.0}, "spacing_mm: expected a number above 0"),
        ({"spacing_mm": -1.5}, "spacing_mm: expected a number above 0"),
        ({"spacing_mm": float("nan")}, "spacing_mm: expected a number above 0"),
        ({"spacing_mm": float("inf")}, "spacing_mm: expected a number above 0"),
        ({"min_voxels": 0}, "min_voxels: expected a number of at least 1"),
        ({"processes": 0}, "at least one process"),
        ({"licences": ("a", "b")}, "one licence for all"),
        ({"regions": ("head", "body")}, "one region for each of the 1 sources"),
        ({"out": "."}, "is a folder"),
        ({"out": "maps/case0.nii.gz"}, "is not a template bank; give another file"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(tmp_path, read_subjects, arguments, named):
    source = cases(tmp_path / "maps")
    before = names(source), (source / "case0.nii.gz").read_bytes()
    with pytest.raises(InputError, match=named):
        build_bank([source], tmp_path / arguments.pop("out", "a.bank"), **arguments)
    assert (
        not read_subjects
        and names(tmp_path) == ["maps"]
        and before == (names(source), (source / "case0.nii.gz").read_bytes())
    )


def test_procedural_shapes_go_into_a_bank_too(tmp_path):
    made = procedural_bank(9)
    build_bank(
        [Path("procedural:9"), cases(tmp_path / "maps") / "case0.nii.gz"],
        tmp_path / "a.bank",
        made.spacing_mm,
        licences=["CC0"],
    )
    bank = TemplateBank.open(tmp_path / "a.bank")
    assert all(np.array_equal(bank.mask(i), made.mask(i)[tuple(map(slice, bank.shape(i)))]) for i in range(9))
    assert (
        bank.entry(3).licence == "CC0"
        and bank.entry(3).organ == made.entry(3).organ
        and bank.entry(9).licence == "CC BY 4.0"
    )
    build_bank([Path("procedural:9")], tmp_path / "b.bank", 2 * made.spacing_mm)
    assert all(np.less(TemplateBank.open(tmp_path / "b.bank").shape(i), made.shape(i)).all() for i in range(9))


def nnunet_dataset(folder: Path, labels: object) -> Path:
    """Write two training cases with three labels and a test case, with scans."""
    rng = np.random.default_rng(0)
    for place, case in (("Tr", "case0"), ("Tr", "case1"), ("Ts", "case2")):
        save(folder / f"images{place}" / f"{case}_0000.nii.gz", rng.integers(0, 200, (16, 14, 12)).astype(np.uint8))
        save(folder / f"labels{place}" / f"{case}.nii.gz", box(0, 4) + box(4, 8, value=2) + box(8, 12, value=3))
    (folder / "dataset.json").write_text(labels if isinstance(labels, str) else json.dumps({"labels": labels}))
    return folder


def test_an_nnunet_dataset_gives_its_training_labels_by_name(tmp_path):
    source = nnunet_dataset(tmp_path / "Dataset001_A", {"background": 0, "both": [1, 2], "core": 2, "ignore": 3})
    report = build_bank([source], tmp_path / "a.bank")
    assert organs(tmp_path / "a.bank") == [(case, organ) for case in ("case0", "case1") for organ in ("both", "core")]
    assert report.templates_of_source == {"Dataset001_A": 4} and [line.why for line in report.rejected] == [
        "labels of test cases are not used"
    ]


def test_a_malformed_dataset_json_is_one_line_and_leaves_numbers(tmp_path):
    report = build_bank([nnunet_dataset(tmp_path / "Dataset001_A", "[]")], tmp_path / "a.bank")
    assert {organ for _, organ in organs(tmp_path / "a.bank")} == {"label_1", "label_2", "label_3"}
    (line,) = [line for line in report.rejected if line.what.endswith("dataset.json")]
    assert "so labels are named by number" in line.why and "\n" not in line.why


def test_a_folder_of_scans_is_refused_with_the_reason(tmp_path):
    source = nnunet_dataset(tmp_path / "Dataset001_A", {"background": 0, "liver": 1})
    with pytest.raises(
        InputError,
        match=r"nothing usable .*case0_0000.nii.gz: .* only \d+% of neighbouring voxels are equal .*: a scan",
    ):
        build_bank([source / "imagesTr"], tmp_path / "a.bank")
    # Beside label maps, a scan stands in the report.
    save(source / "labelsTr" / "case3.nii.gz", np.random.default_rng(0).integers(0, 200, (16, 14, 12)).astype(np.uint8))
    build_bank([source], tmp_path / "a.bank")
    assert "case3.nii.gz: expected labels, found 199 values" in (tmp_path / "a.bank.report.txt").read_text()


def test_stated_regions_are_kept_in_the_bank(tmp_path):
    sources = [cases(tmp_path / "maps"), cases(tmp_path / "more"), Path("procedural:9")]
    report = build_bank(sources, tmp_path / "a.bank", regions=["head", "body", ""])
    regions = TemplateBank.open(tmp_path / "a.bank").regions
    assert [region.name for region in regions] == ["head", "body", "procedural"] and report.regions == regions
    assert "in region body, 2 kinds, " in str(report)
    # Left to their organs, the first two are one.
    build_bank(sources, tmp_path / "b.bank")
    assert [region.name for region in TemplateBank.open(tmp_path / "b.bank").regions] == ["maps", "procedural"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--spacing", "nan"), "--spacing must be a finite number"),
        (("--spacing", "0"), "spacing_mm: expected a number above 0"),
        (("--workers", "0"), "at least one process"),
        (("--licence", "a", "b"), "one licence for all"),
        (("--region", "a", "b"), "one region for each"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, monkeypatch, flags, named):
    cases(tmp_path / "maps")
    monkeypatch.setattr(
        "sys.argv",
        [
            "anatomix-pretrain",
            "templates",
            "--source",
            str(tmp_path / "maps"),
            "--out",
            str(tmp_path / "a.bank"),
            *flags,
        ],
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert named in str(caught.value) and "\n" not in str(caught.value) and names(tmp_path) == ["maps"]


@pytest.mark.slow
def test_the_command_on_real_data(data_root, tmp_path):
    sources = [
        str(data_root / "templates" / name) for name in ("totalsegmentator", "totalsegmentator_multilabel", "head_neck")
    ]
    bank = tmp_path / "a.bank"
    command = ["templates", "--source", *sources, "--out", str(bank), "--workers", "1", "--licence", "CC BY 4.0"]
    ran = run_here("anatomix-pretrain", *command)
    assert ran.returncode == 0, ran.stderr
    said = ran.stderr
    report = (tmp_path / "a.bank.report.txt").read_text()
    empty = [line for line in report.splitlines() if line.endswith(": the mask is empty")]
    assert len(empty) == 9 and "\n9 empty masks\n" in report and "9 empty masks" in said
    assert sum(f"kidney_cyst_{side}.nii.gz" in line for side in ("left", "right") for line in empty) == 2
    assert names(tmp_path) == ["a.bank", "a.bank.report.txt"]
    templates = TemplateBank.open(bank)
    templates.verify()
    subjects = templates.subjects()
    assert len(templates) > 500 and len(subjects) == 22
    found = [templates.entry(i).organ for i in subjects["totalsegmentator", "s0327"]]
    assert (
        found.count("ribs") == found.count("vertebrae") == 1
        and len(found) == 67
        and not any(organ.startswith("rib_") for organ in found)
    )
    brains = [entry for entry in templates.entries() if entry.organ == "Brain"]
    assert len(brains) == 20 and all(40 < side < 140 for entry in brains for side in entry.shape)
    assert {entry.licence for entry in templates.entries()} == {"CC BY 4.0"}
    # Two subjects of TotalSegmentator, one as masks and one as a label map, show the same part of
    # the body.
    assert [region.name for region in templates.regions] == ["totalsegmentator", "head_neck"]
