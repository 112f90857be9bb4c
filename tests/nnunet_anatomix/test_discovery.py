"""Discovery of our trainers by stock nnU-Net after ``pip install``, without variables to set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHOW = """import os, sys
print(os.environ.get('nnUNet_extTrainer', ''))
print('torch' in sys.modules or 'nnunet_anatomix' in sys.modules)"""


@pytest.fixture(scope="module", params=["plain", pytest.param("editable", marks=pytest.mark.slow)])
def environment(request, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Install nnunet-anatomix into a new environment that shares all other packages.

    Return its interpreter, its site-packages and the folder of its trainers.
    """
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "source"
    source.mkdir()
    for name in ("nnunet_anatomix", "pretraining", "plans"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, source)
    venv.create(folder / "env", with_pip=False)
    windows = os.name == "nt"
    python = folder / "env" / ("Scripts/python.exe" if windows else "bin/python")
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip())
    # Python does not read the .pth files (such as ours) in folders that a .pth file adds.
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if Path(path).name == "site-packages"))
    options = ["--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet", "--disable-pip-version-check"]
    target = ["--editable", str(source)] if request.param == "editable" else [str(source)]
    subprocess.run([python, "-m", "pip", "install", *options, *target], check=True, cwd=folder)
    package = source if request.param == "editable" else site
    return python, site, package / "nnunet_anatomix" / "trainers"


def run(python: Path, code: str, folder: Path, trainers: str | None = None) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if name not in ("nnUNet_extTrainer", "PYTHONPATH")}
    variables |= {} if trainers is None else {"nnUNet_extTrainer": trainers}
    return subprocess.run([python, "-c", code], env=variables, cwd=folder, capture_output=True, text=True, check=True)


def test_trainers_are_registered_without_heavy_imports(environment, tmp_path):
    python, _, trainers = environment
    assert run(python, SHOW, tmp_path).stdout.splitlines() == [str(trainers), "False"]


def test_the_users_folders_stay_first_and_nothing_is_added_twice(environment, tmp_path):
    python, _, trainers = environment
    expected = os.pathsep.join(["/mine", "/other", str(trainers)])
    once = run(python, SHOW, tmp_path, trainers=os.pathsep.join(["/mine", "", "/other"])).stdout.splitlines()[0]
    assert once == expected
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    assert run(python, child, tmp_path, trainers=once).stdout.splitlines()[0] == expected


FIND = """import inspect, pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
for name in ("AnatomixTrainer", "AnatomixTrainerScratch"):
    found = find(name)
    assert pickle.loads(pickle.dumps(found)) is found is find(name)
    print(inspect.getfile(found))
from nnunet_anatomix.finetuning.plan_template import load_template
print(load_template().anatomix.iterations)"""


def test_stock_nnunet_finds_the_classes_they_can_be_pickled_and_plans_are_installed(environment, tmp_path):
    python, _, trainers = environment
    file = str(trainers.parent / "finetuning" / "trainer.py")
    said = run(python, FIND, tmp_path).stdout.splitlines()  # nnU-Net names each trainer's folder, too
    assert said.count(file) == 2 and said[-1] == "37500"


def test_a_partly_removed_package_does_no_harm(environment, tmp_path):
    python, site, trainers = environment
    assert (site / "nnunet_anatomix.pth").is_file()
    hidden = trainers.with_name("hidden")
    trainers.rename(hidden)
    try:
        result = run(python, SHOW, tmp_path)
        assert result.stdout.splitlines() == ["", "False"] and not result.stderr
    finally:
        hidden.rename(trainers)
