"""Doctor: faults that a test can produce are reported, and none stops the other checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from nnunet_anatomix import doctor
from nnunet_anatomix.doctor import CHECKS, Finding, examine
from tests.process_server import run_python


def found(check: str) -> list[Finding]:
    return list(next(one for one in CHECKS if one.__name__ == f"_{check}")())


@pytest.fixture
def healthy(nnunet, weights_file, monkeypatch) -> SimpleNamespace:
    """Provide folders, a dataset, weights and enough memory on any machine."""
    (nnunet.raw / "Dataset001_One").mkdir()
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * doctor.GB, total=24 * doctor.GB)
    )
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * doctor.GB, total=90 * doctor.GB)
    )
    return nnunet


def test_a_healthy_installation_has_no_problem(healthy):
    findings = list(examine())
    assert not [finding for finding in findings if finding.level == "problem"]
    assert all(bool(finding.advice) for finding in findings if finding.level == "warning")
    for words in ("torch", "nnU-Net 2", "AnatomixTrainer", "weights", "memory"):
        assert any(words in finding.what and finding.level == "ok" for finding in findings), words


def test_folders_that_are_unset_missing_or_closed(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.setenv("nnUNet_raw", "/not/there")
    levels = {finding.what.split("=")[0].split()[0]: finding.level for finding in found("folders")}
    assert levels == {"nnUNet_results": "problem", "nnUNet_raw": "problem", "nnUNet_preprocessed": "ok"}


def test_a_folder_that_cannot_be_written(healthy, monkeypatch):
    def refuses(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuses)
    problems = [finding.what for finding in found("folders") if finding.level == "problem"]
    assert len(problems) == 2 and all("Permission denied" in what for what in problems)


def test_little_space_and_little_memory(healthy, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * doctor.GB, total=4 * doctor.GB))
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 * doctor.GB, total=0.0625 * doctor.GB)
    )
    assert [finding.level for finding in found("folders")] == ["ok", "warning", "warning"]
    memory, *shared = found("memory")
    assert memory.level == "warning" and "2.0 of 4.0 GB" in memory.what
    assert all(finding.level == "problem" and "--shm-size" in finding.advice for finding in shared)


def test_an_empty_raw_folder_is_a_warning(healthy):
    (healthy.raw / "Dataset001_One").rmdir()
    assert found("folders")[0].level == "warning"


def test_invalid_numbers_of_processes_are_reported(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "available_cores", lambda: 2)
    monkeypatch.setenv("nnUNet_n_proc_DA", "many")
    monkeypatch.delenv("nnUNet_def_n_proc")
    augmenting, preprocessing = found("workers")
    assert (augmenting.level, preprocessing.level) == ("problem", "warning")
    monkeypatch.setenv("nnUNet_n_proc_DA", "12")
    assert found("workers")[0].level == "warning"


def test_misspelt_and_invalid_variables_are_reported(healthy, monkeypatch):
    monkeypatch.setenv("ANATOMIX_ITERATION", "5")
    monkeypatch.setenv("ANATOMIX_SEED", "minus one")
    findings = [finding for finding in examine() if "ANATOMIX_" in finding.what]
    assert any(
        finding.level == "warning" and "ANATOMIX_ITERATION is not a known variable" in finding.what
        for finding in findings
    )
    assert any(finding.level == "problem" and "ANATOMIX_SEED must be" in finding.what for finding in findings)


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_unusable_weights_do_not_stop_later_checks(healthy, monkeypatch, tmp_path, damage):
    path = tmp_path / "torn.safetensors"
    if damage == "torn":
        path.write_bytes(b"not weights")
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(path))
    findings = list(examine())
    problems = [finding for finding in findings if finding.level == "problem"]
    assert len(problems) == 1 and str(path) in problems[0].what
    assert any("memory" in finding.what for finding in findings)


def test_a_check_that_raises_is_one_problem(healthy, monkeypatch):
    def _graphics():
        yield Finding("ok", "begun")
        raise RuntimeError("driver\nlost")

    monkeypatch.setattr(doctor, "CHECKS", (_graphics, doctor._workers))
    findings = list(examine())
    assert str(findings[1]) == "problem graphics: RuntimeError: driver lost" and len(findings) == 4


def test_trainers_that_are_not_found(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    assert [finding.level for finding in examine() if finding.what.startswith("trainers")] == ["problem"]


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "nnunet_anatomix", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_exit_code_reports_problems(nnunet, weights_file):
    (nnunet.raw / "Dataset001_One").mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def run_doctor(**variables: str) -> subprocess.CompletedProcess:
        return run_python([sys.executable, "-m", "nnunet_anatomix", "doctor"], env={**os.environ, **variables})

    well = run_doctor(ANATOMIX_WEIGHTS=str(weights_file), PATH=path)
    assert well.returncode == 0 and not well.stderr, well.stdout + well.stderr
    assert all(line.startswith(("ok", "warning")) for line in well.stdout.splitlines())
    ill = run_doctor(nnUNet_raw="", PATH=path)
    assert ill.returncode == 1 and "problem nnUNet_raw is not set" in ill.stdout
    assert "findings are problems" in ill.stderr.splitlines()[-1]


def test_an_older_nnunet_is_refused_with_one_line(nnunet, tmp_path):
    older = tmp_path / "older" / "nnunetv2-2.5.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: nnunetv2\nVersion: 2.5.1\n")
    variables = {"PYTHONPATH": os.pathsep.join([str(older.parent), os.environ.get("PYTHONPATH", "")])}
    for arguments in (["plan", "-d", "901"], ["split", "-d", "901"], ["doctor"]):
        result = command(*arguments, **variables)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "nnU-Net 2.5.1 is too old for anatomix, expected 2.8 or newer" in result.stdout + result.stderr
