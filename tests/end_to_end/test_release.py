"""Wheel and source distribution are complete, and installing either gives the commands.

In the ordinary suite the environments borrow their dependencies from the tests' own; the slow test
installs into empty ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import nnunet_anatomix
import pretraining

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("nnunet_anatomix", "pretraining", "plans")
FILES = (
    "setup.cfg",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    "CITATION.cff",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "Makefile",
    "SECURITY.md",
)
BINARIES = "Scripts" if os.name == "nt" else "bin"


def run(*command: str | Path, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    variables = {name: value for name, value in os.environ.items() if name not in ("nnUNet_extTrainer", "PYTHONPATH")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=variables | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """``sdist``, built from a copy of the tree, and ``wheel``, built from the sdist."""
    source = tmp_path_factory.mktemp("release") / "source"
    source.mkdir()
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    out = source.parent / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, folder=source.parent)
    run(sys.executable, "-m", "twine", "check", "--strict", *out.iterdir(), folder=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def shipped(folder: str) -> set[str]:
    """Files of a folder that users need, relative to the repository."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file()
        and (path.suffix in (".py", ".json", ".safetensors", ".pth") or path.name == "py.typed")
        and "__pycache__" not in path.parts
    }


def test_nothing_is_missing_from_wheel_and_sdist(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(distributions["wheel"]).namelist())
    files = set().union(*(shipped(folder) for folder in FOLDERS))
    assert len(files) > 150
    assert files | set(FILES) <= in_sdist
    assert {re.sub(r"^plans/", "nnunet_anatomix/plans/", name) for name in files} <= in_wheel
    assert "nnunet_anatomix.pth" in in_wheel, "nnU-Net finds the trainers by this file at site-packages' root"
    assert {"nnunet_anatomix/py.typed", "pretraining/py.typed"} <= in_wheel, (
        "type checkers read annotations where this file lies"
    )


def test_the_same_version_everywhere(distributions):
    assert nnunet_anatomix.__version__ is pretraining.__version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pretraining.__version__
    for distribution in distributions.values():
        assert distribution.name.startswith(f"nnunet_anatomix-{pretraining.__version__}"), (
            "built from pretraining.__version__"
        )
    for name in ("setup.cfg", "pyproject.toml"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert not re.search(r"^version\s*=\s*\W?\d", text, re.MULTILINE), f"{name} states the version again"


def test_the_wheel_is_small_and_no_picture_is_shipped_twice(distributions):
    assert distributions["wheel"].stat().st_size <= 14_000_000
    pictures = [path for path in (REPOSITORY / "docs").rglob("*.png") if "_build" not in path.parts]
    contents = [path.read_bytes() for path in pictures]
    assert len(contents) == len(set(contents)) > 5


def test_metadata_of_the_archive_agrees_with_the_citation():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    archive = json.loads((REPOSITORY / ".zenodo.json").read_text(encoding="utf-8"))
    assert archive["license"] == citation["license"] and archive["title"].startswith(citation["title"])
    assert [one["name"] for one in archive["creators"]] == [one["name"] for one in citation["authors"]]
    site = yaml.safe_load((REPOSITORY / ".readthedocs.yaml").read_text(encoding="utf-8"))
    assert (REPOSITORY / site["sphinx"]["configuration"]).is_file() and site["sphinx"]["fail_on_warning"]


def test_the_newest_changes_are_unreleased_or_of_this_version():
    headings = re.findall(r"^## \[?([\w.]+)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in ("Unreleased", pretraining.__version__)


def test_setup_cfg_says_only_what_is_shipped():
    """Everything else is in pyproject.toml, so that no key is in both."""
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    assert set(config.sections()) == {"options", "options.package_data"}
    assert set(config["options"]) == {"packages", "package_dir", "cmdclass"}


@pytest.mark.parametrize("kind", ["wheel", pytest.param("sdist", marks=pytest.mark.slow)])  # a wheel is made of it
def test_an_installed_release_runs_its_commands(kind, distributions, tmp_path):
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / BINARIES / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path).strip())
    # Paths that are merely listed: the .pth files inside, an editable install of ours among them,
    # are not read.
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if Path(path).name == "site-packages"))
    options = ["--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet", "--disable-pip-version-check"]
    run(python, "-m", "pip", "install", *options, distributions[kind], folder=tmp_path)
    assert str(site) in run(environment / BINARIES / "nnunet-anatomix", "weights", folder=tmp_path)
    assert "preview" in run(environment / BINARIES / "anatomix-pretrain", "--help", folder=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_clean_environment_is_enough(kind, distributions, tmp_path):
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    binaries = environment / BINARIES
    run(
        binaries / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        distributions[kind],
        folder=tmp_path,
    )
    folders = {}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folders[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
    ready = {**folders, "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]])}
    report = run(binaries / "nnunet-anatomix", "doctor", folder=tmp_path, environment=ready)
    assert "problem" not in report
    found = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "print(find('AnatomixTrainer').__module__)"
    )
    assert run(binaries / "python", "-c", found, folder=tmp_path).split()[-1] == "nnunet_anatomix.finetuning.trainer"
    if kind == "wheel":
        run(binaries / "nnunet-anatomix", "demo", "--out", "demo", folder=tmp_path, environment=ready)
        assert (tmp_path / "demo" / "overview.png").is_file()
    shutil.rmtree(environment)  # 6 GB
