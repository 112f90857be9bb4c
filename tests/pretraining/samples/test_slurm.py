"""Test that an array of jobs makes the same store as one process, with submitit's local jobs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from pretraining.common.errors import CommandFailed, InputError
from pretraining.samples.slurm import ShareJob, submit
from pretraining.samples.store import open_store
from pretraining.samples.synthesize import Share, synthesize


def test_jobs_fill_one_store(request_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = submit(request_of(count=12), tmp_path / "array", shares=2, workers=1, minutes=5, cluster="local")
    still_missing = [job.result() for job in jobs]
    assert 0 in still_missing, "the last one finds the store complete"
    assert any((tmp_path / "array" / "slurm").glob("*.out"))
    assert synthesize(request_of(count=12), tmp_path / "alone") == 0
    assert open_store(tmp_path / "array").checksums == open_store(tmp_path / "alone").checksums


def test_a_job_that_runs_out_of_time_queues_again_with_the_same_share(request_of, tmp_path):
    job = ShareJob(request=request_of(), store=tmp_path, workers=1)
    again = job.checkpoint(Share(1, 3))
    assert again.function is job and again.args == (Share(1, 3),)


def test_without_submitit_one_line_says_what_to_install(request_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        submit(request_of(), tmp_path / "store", shares=2, workers=1, minutes=5)
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm here")
def test_without_slurm_one_line_says_so(request_of, tmp_path):
    with pytest.raises(InputError, match="no Slurm on this machine"):
        submit(request_of(), tmp_path / "store", shares=2, workers=1, minutes=5)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("wrong", [{"shares": 0}, {"workers": 0}, {"minutes": 0}])
def test_impossible_arrays_are_refused(request_of, tmp_path, wrong):
    with pytest.raises(InputError, match="expected at least 1"):
        submit(request_of(), tmp_path / "store", **{"shares": 2, "workers": 1, "minutes": 5} | wrong, cluster="local")


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Put mock Slurm commands on the path; return the file that receives the submission."""

    def fake(answer: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in (("srun", "exit 0"), ("sbatch", f'cp "$1" {tmp_path}/submitted.sh\n{answer}')):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "submitted.sh"

    return fake


def test_slurm_gets_one_array(request_of, tmp_path, sbatch):
    submitted = sbatch("echo Submitted batch job 71")
    jobs = submit(request_of(), tmp_path / "store", shares=3, workers=4, minutes=90, partition="night")
    assert [job.job_id for job in jobs] == ["71_0", "71_1", "71_2"]
    lines = set(submitted.read_text().splitlines())
    wanted = ("array=0-2%3", "cpus-per-task=4", "time=90", "partition=night", "mem=10GB")
    assert {f"#SBATCH --{option}" for option in wanted} <= lines


def test_a_refusal_of_slurm_is_one_line(request_of, tmp_path, sbatch):
    sbatch("echo 'sbatch: error: invalid partition specified: night' >&2; exit 1")
    with pytest.raises(CommandFailed, match="invalid partition specified: night"):
        submit(request_of(), tmp_path / "store", shares=2, workers=1, minutes=90, partition="night")
