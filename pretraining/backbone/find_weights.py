"""Search for a weights file by path, hub address, environment variable or name."""

from __future__ import annotations

import logging
import os
import re
from importlib import resources
from pathlib import Path

from pretraining.common.errors import InputError

DEFAULT_WEIGHTS = "anatomix_unet16"
HUB = "hf://"
PUBLISHED = ("anatomix", "anatomix-dev", "anatomix-dev-vit")
"""Names of the weights that the paper's authors publish."""
_HUB = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)/(?P<file>[^@]+)(?:@(?P<revision>.*))?")

log = logging.getLogger(__name__)


def find_weights(explicit: str | None = None, plan: str | None = None) -> Path:
    """Find the weights file.

    The first of these sources that is set determines it: ``explicit``, the environment variable
    ``ANATOMIX_WEIGHTS``, ``plan``, the bundled weights.

    Args:
        explicit: A path, ``hf://owner/repo/file@revision`` (fetched once, then read from the hub's
            cache; without network if ``HF_HUB_OFFLINE`` is set), the name of bundled weights (see
            :func:`bundled_weights`), ``bundled`` for the default ones, or None.
        plan: Name from the plan, in the same format.

    Raises:
        InputError: If the file does not exist; later sources are not tried. Also for a hub address
            without revision, since its weights could change.
    """
    source, name = resolve_weights(explicit, plan)
    bundled = bundled_weights()
    path = bundled.get(DEFAULT_WEIGHTS if name == "bundled" else name)
    if path is None:
        path = _fetch(name) if name.startswith(HUB) else Path(name).expanduser()
    if not path.is_file():
        if name in PUBLISHED:
            raise InputError(
                f"{source} names {name}, which is published on the Hugging Face hub; "
                f"use {HUB}neeldey/anatomix/{name}.pth@COMMIT with a commit that you trust, or a downloaded file"
            )
        raise InputError(
            f"{source} names {name}, but there is no such file; correct it, "
            f"or use bundled weights: {', '.join(bundled)}"
        )
    return path


def bundled_weights() -> dict[str, Path]:
    """Return the weights files of this installation by name, the default first."""
    folder = Path(str(resources.files("pretraining.backbone.bundled")))
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    return {DEFAULT_WEIGHTS: files.pop(DEFAULT_WEIGHTS, folder / f"{DEFAULT_WEIGHTS}.safetensors"), **files}


def resolve_weights(explicit: str | None = None, plan: str | None = None) -> tuple[str, str]:
    """Resolve the name of the weights, without checking that the file exists.

    Args:
        explicit: Name from the command line, see :func:`find_weights`.
        plan: Name from the plan.

    Returns:
        Source of the name for messages, and the name: a path, a hub address, or ``bundled``.
    """
    sources = (
        ("--weights", explicit),
        ("ANATOMIX_WEIGHTS", os.environ.get("ANATOMIX_WEIGHTS")),
        ("the plan's anatomix.weights", plan),
    )
    return next(((source, name) for source, name in sources if name), ("nothing", "bundled"))


def _fetch(address: str) -> Path:
    match = _HUB.fullmatch(address)
    if not match:
        raise InputError(f"expected hf://owner/repo/file@revision, found {address}")
    if not match["revision"]:
        raise InputError(
            f"{address} has no revision, so its weights could change; append @ and a commit or tag of {match['repo']}"
        )
    from huggingface_hub import hf_hub_download  # slow to import, and rarely needed

    try:
        path = Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    except Exception as error:  # the hub does not wrap exceptions of its network library
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"could not fetch {address} ({reason}); download the file elsewhere and use its path"
        ) from None
    # The hub's cache has one folder per commit, also for tags and branches.
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    if commit and commit[1] != match["revision"]:
        log.warning("%s may change; use @%s to pin the present weights", address, commit[1])
    return path
