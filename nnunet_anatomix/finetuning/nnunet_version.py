"""Which nnU-Net there is, and whether it is new enough."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from nnunet_anatomix.finetuning.stopping import stops_on_bad_input
from pretraining.errors import InputError

OLDEST = "2.8"
"""Finds trainers outside of its own package, and builds networks as ours are written for."""


@stops_on_bad_input
def require_nnunet() -> str:
    """Installed version of nnU-Net.

    Raises
    ------
    InputError
        If there is none, or an older one than :data:`OLDEST`; uncaught, it ends stock commands with one line.
    """
    advice = f"run: pip install --upgrade 'nnunetv2>={OLDEST}'"
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        raise InputError(f"nnU-Net is not installed here; {advice}") from None
    if Version(found) < Version(OLDEST):
        raise InputError(f"nnU-Net {found} is too old for anatomix, expected {OLDEST} or newer; {advice}")
    return found
