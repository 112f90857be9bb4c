"""Commands hide timm's deprecation warning and no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TIMM = "`torch.jit.interface` is deprecated. Please use `torch.compile` instead."
WARN = f"import warnings; warnings.warn({TIMM!r}, FutureWarning); warnings.warn('a new thing', FutureWarning)"
HIDE = "from pretraining.common.known_warnings import hide_known_warnings; hide_known_warnings()"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WARN!r}], check=True)"


def stderr_of(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stderr


@pytest.mark.parametrize("code", [WARN, CHILD], ids=["this process", "a child"])
def test_only_the_known_warning_is_hidden(code):
    assert "torch.jit.interface" in stderr_of(code)
    said = stderr_of(f"{HIDE}\n{code}")
    assert "torch.jit.interface" not in said and "a new thing" in said


def test_filters_of_the_user_are_kept():
    said = stderr_of(f"{HIDE}\n{CHILD}", PYTHONWARNINGS="ignore:a new")
    assert "torch.jit.interface" not in said and "a new thing" not in said


def test_importing_the_packages_hides_nothing():
    imports = "import pretraining, nnunet_anatomix, pretraining.common.command_line, nnunet_anatomix.cli"
    assert "torch.jit.interface" in stderr_of(f"{imports}\n{WARN}")
