"""Imports go one way, and importing the packages is light."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
SOURCES = sorted(
    path for package in ("pretraining", "nnunet_anatomix") for path in (REPOSITORY / package).rglob("*.py")
)


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    return {module.split(".")[0] for module in modules}


def test_pretraining_never_imports_nnunet():
    ours = [path for path in SOURCES if path.relative_to(REPOSITORY).parts[0] == "pretraining"]
    assert ours and not [path for path in ours if imported_modules(path) & {"nnunetv2", "nnunet_anatomix"}]


def test_pretraining_runs_where_nnunet_is_not_importable(tmp_path):
    code = (
        "import sys; sys.modules['nnunetv2'] = None; sys.modules['nnunet_anatomix'] = None\n"
        "import pkgutil, importlib, pretraining\n"
        "for module in pkgutil.walk_packages(pretraining.__path__, 'pretraining.'):\n"
        "    if module.name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(module.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name != 'triton': raise\n"  # kernels for GPUs, which come with PyTorch for CUDA
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_torchrun_and_synthesize_run_where_nnunet_is_not_importable(tmp_path):
    """As on a GPU node with nothing but this package: both commands, as they are typed."""
    (tmp_path / "nnunetv2.py").write_text("raise ImportError('not on this machine')\n")
    (tmp_path / "nnunet_anatomix.py").write_text("raise ImportError('not on this machine')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    bank = tmp_path / "shapes.bank"
    blocked = [sys.executable, "-c", "import nnunetv2"]
    assert subprocess.run(blocked, cwd=tmp_path, env=environment, capture_output=True).returncode != 0

    def runs(*command: object) -> None:
        subprocess.run([sys.executable, "-m", *map(str, command)], cwd=tmp_path, env=environment, check=True)

    runs("pretraining", "templates", "--source", "procedural:8", "--out", bank)
    runs(
        "pretraining",
        "synthesize",
        "--templates",
        bank,
        "--out",
        tmp_path / "store",
        "--count",
        2,
        "--workers",
        1,
        "--engine.side",
        16,
    )
    torchrun = (
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "-m",
        "pretraining",
        "train",
        "--device",
        "cpu",
    )
    size = (
        "--steps",
        1,
        "--label-maps",
        2,
        "--validation-pairs",
        1,
        "--engine.side",
        16,
        "--objective.contrastive.max-shift-vox",
        0,
    )
    size = (*size, "--backbone.poolings", 2, "--backbone.width", 2)
    runs(*torchrun, "--templates", bank, "--out", tmp_path / "run", "--workers", 0, *size)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_importing_the_packages_is_light(tmp_path):
    code = (
        "import nnunet_anatomix, pretraining, sys; print({'torch', 'numpy', 'nnunetv2', 'SimpleITK'} & {*sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.strip() == "set()"


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(REPOSITORY) for path in SOURCES} | {Path("nnunet_anatomix/plans")}
    assert listed == {".".join(folder.parts) for folder in folders}


def code_in_strings(path: Path) -> list[ast.ImportFrom]:
    """Return the ``from … import …`` of our packages in programs that a test keeps in strings."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for line in re.split(r"[\n;]", node.value):
                if re.match(r"\s*from (pretraining|nnunet_anatomix)[\w.]* import [\w, *]+$", line):
                    found.append(ast.parse(line.strip()).body[0])
    return found


def test_programs_in_strings_import_what_exists():
    """No import sorter and no type checker sees them; in slow tests they break unnoticed."""
    broken = []
    for path in sorted(TESTS.rglob("*.py")):
        for statement in code_in_strings(path):
            module = importlib.import_module(statement.module)
            for alias in statement.names:
                known = alias.name == "*" or hasattr(module, alias.name)
                if not known and not importlib.util.find_spec(f"{statement.module}.{alias.name}"):
                    broken.append(f"{path}: {ast.unparse(statement)}")
    assert not broken, broken
