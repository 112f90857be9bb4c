"""Lines of the Dockerfile and of the compose files, without Docker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import nnunet_anatomix.cli
from nnunet_anatomix.clinical.network.addresses import parse_dimse_address
from nnunet_anatomix.clinical.running.routes import read_routes
from pretraining.common.command_line import parse_command

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKER = REPOSITORY / "docker"


def instructions(name: str) -> list[list[str]]:
    """Words of all lines of the Dockerfile with an instruction."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith(f"{name} ")]


def copied() -> list[str]:
    return [source for *sources, _ in instructions("COPY") for source in sources]


def service() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]["anatomix"]


def test_what_is_copied_exists_and_reaches_the_builder():
    assert len(copied()) > 5 and all((REPOSITORY / name).exists() for name in copied())
    lines = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines and {line[1:] for line in lines if line.startswith("!")} == set(copied())


def test_the_copied_files_suffice_for_the_package_that_pip_installs(tmp_path):
    for name in copied():
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / "in" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "in")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", "../out", "."]
    built = subprocess.run(command, cwd=tmp_path / "in", capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    with zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = wheel.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"{json.loads(entry)[0]} = " in scripts
    (installed,) = [word for words in instructions("RUN") for word in words if "[" in word]
    wanted = Requirement(installed.replace(".", "nnunet-anatomix", 1)).extras
    assert wanted and wanted <= set(re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE))
    assert {"nnunet_anatomix/clinical/running/run.py", "nnunet_anatomix/plans/README.md"} <= set(names)


def test_the_service_runs_a_command_that_we_have(monkeypatch):
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service()["command"])
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", *shlex.split(text)])
    bound = parse_command("nnunet-anatomix", nnunet_anatomix.cli._commands(), "")
    given = bound.keywords
    assert given["watch"] and given["send"]
    listen = parse_dimse_address(given["receive"], "--receive")
    assert [re.sub(r"\$\{.*\}", "", port) for port in service()["ports"]] == [f":{listen.port}"]
    places = {volume.split(":")[1] for volume in service()["volumes"]}
    assert {str(given["src"]), str(given["dst"]), str(given["routes"])} <= places


def test_mounted_files_and_folders_are_known():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    for source in (volume.split(":")[0] for volume in service()["volumes"]):
        assert source in compose["volumes"] or source == "./models" or (DOCKER / source).is_file(), source
    build = service()["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text(encoding="utf-8"))
    assert gpu["services"].keys() <= compose["services"].keys()
    models = dict(word.split("=") for words in instructions("ENV") for word in words)["nnUNet_results"]
    assert f"./models:{models}:ro" in service()["volumes"]


def test_the_example_of_routes_is_read():
    abdomen, brain = read_routes(DOCKER / "routes.yaml")
    assert abdomen.body_part == ("ABDOMEN", "CHEST*") and not brain.mirroring and brain.folds == ("all",)
