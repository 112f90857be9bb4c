"""``--version`` prints the versions without slow imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from pretraining import __version__


@pytest.mark.parametrize(
    ("module", "program"), [("pretraining", "anatomix-pretrain"), ("nnunet_anatomix", "nnunet-anatomix")]
)
def test_versions_are_printed_without_importing_torch(module, program, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
    ended = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    python = ".".join(map(str, sys.version_info[:3]))
    assert (
        ended.stdout.startswith(f"{program} {__version__} (Python {python}, torch {version('torch')}")
        and ended.stdout.count("\n") == 1
    )


def test_dependencies_that_are_not_installed_are_left_out(monkeypatch):
    from pretraining.common import versions

    monkeypatch.setattr(versions, "_DEPENDENCIES", ("torch", "no-such-distribution"))
    assert "no-such-distribution" not in versions.version_line("program") and "torch" in versions.version_line(
        "program"
    )
