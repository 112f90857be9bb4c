"""One run of label propagation: estimate by leave-one-out, choose settings, label all scans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_anatomix.finetuning.dataset import find_dataset
from nnunet_anatomix.propagation.folder import PICTURE, FolderSettings, find_scans, propagate_folder
from nnunet_anatomix.propagation.fusion import Fusion
from nnunet_anatomix.propagation.labelled_scans import LabelledScans
from nnunet_anatomix.propagation.leave_one_out import FUSIONS, choose, evenly, leave_one_out, write_scores
from nnunet_anatomix.propagation.presets import PresetName, distinct_presets
from nnunet_anatomix.propagation.propagate import Resources
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from pretraining.backbone.external_weights import load_feature_weights
from pretraining.common.atomic import write_text
from pretraining.common.byte_sizes import parse_bytes
from pretraining.common.checks import check_count
from pretraining.common.device import has_bf16_units, resolve_device
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder

log = logging.getLogger(__name__)

LEFT_OUT = "leave_one_out"
_COMPARED: tuple[PresetName, ...] = ("fast", "standard")
_DEFAULT_PRESET: PresetName = "standard"
_DEFAULT_FUSION: Fusion = "local"


@dataclass(frozen=True, kw_only=True)
class PropagationRequest:
    """Request of the command ``propagate``; None means the default of its help."""

    dataset: str
    images: Path
    out: Path
    preset: PresetName | None = None
    fusion: Fusion | None = None
    atlases: int | None = None
    leave_out: int = 5
    features: str | None = None
    feature_weight: float = 0.1
    memory: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run_propagation(request: PropagationRequest) -> None:
    """Estimate the Dice to expect, choose settings, and label all scans of a folder.

    Args:
        request: What to do.

    Raises:
        InputError: If dataset, folder or settings cannot be used.
        CommandFailed: If scans failed, after all others.
        InUse: If another process writes into the folder.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    check_count(atlases=request.atlases)
    if request.leave_out < 0:
        raise InputError(f"--leave-out: expected 0 or more scans, found {request.leave_out}; use 0 to skip it")
    scans = LabelledScans(dataset=find_dataset(request.dataset))
    inputs = find_scans(request.images, scans)
    try_folder(request.out)
    if request.images.resolve() == request.out.resolve():
        raise InputError(f"-o: expected another folder than that of the scans, found {request.out}; use a new folder")
    settings = read_settings(scans, request)
    with hold_lock(request.out):
        settings = choose_settings(scans, request, settings)
        records = propagate_folder(scans, inputs, request.out, settings)
    log.info("%d scans labelled; labels and %s are in %s", len(records), PICTURE, request.out)


def read_settings(scans: LabelledScans, request: PropagationRequest) -> FolderSettings:
    """Return the settings of a request, without an estimate of the Dice.

    Args:
        scans: Labelled scans.
        request: What to do.

    Raises:
        InputError: If weights, memory or device cannot be used.
    """
    device = resolve_device(request.device)
    weights = load_feature_weights(request.features) if request.features else None
    return FolderSettings(
        preset=request.preset or _DEFAULT_PRESET,
        fusion=request.fusion or _DEFAULT_FUSION,
        descriptors=DescriptorConfig(
            intensity=True,  # labelled scans are of the same modality
            feature_weight=request.feature_weight if weights else 0.0,
            bf16=has_bf16_units(device),
        ),
        resources=Resources(
            net=weights.network().to(device).eval() if weights else None,
            clips=scans.clips,
            memory=None if request.memory is None else parse_bytes(request.memory),
            device=device,
        ),
        atlases=request.atlases,
        network_sha256=weights.sha256 if weights else None,
    )


def choose_settings(scans: LabelledScans, request: PropagationRequest, settings: FolderSettings) -> FolderSettings:
    """Choose preset and fusion by leave-one-out, and measure the Dice to expect.

    Args:
        scans: Labelled scans.
        request: What to do; its folder gets the scores.
        settings: Result of :func:`read_settings`.

    Returns:
        The settings; as they were where the request skips leave-one-out, or with one labelled scan.

    Raises:
        CommandFailed: If a scan fails, after all others.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    fusions: Sequence[Fusion] = (request.fusion,) if request.fusion else FUSIONS
    if len(scans.names) == 2:  # a single atlas is always elected
        fusions = (settings.fusion,)
    cases = evenly(scans.names, request.leave_out)
    if not cases or len(scans.names) < 2:
        reason = "skipped" if len(scans.names) > 1 else "needs two labelled scans"
        log.info("leave-one-out %s: the Dice to expect is unknown", reason)
        return settings
    presets: tuple[PresetName, ...] = (request.preset,) if request.preset else _COMPARED
    presets = distinct_presets(presets, (scans.read(case).channels[0] for case in cases))
    log.info("labelling %d labelled scans by the others, to estimate the Dice", len(cases))
    scores = leave_one_out(
        scans,
        request.out / LEFT_OUT,
        settings.descriptors,
        settings.resources,
        cases=cases,
        presets=presets,
        fusions=fusions,
        network_sha256=settings.network_sha256,
    )
    expected = choose(scores)
    table = write_scores(request.out, scores)
    write_text(request.out / f"{LEFT_OUT}.md", f"Expected on a new scan: {expected}\n\n{table}\n")
    log.info("%s\nexpected: %s", table, expected)
    return replace(
        settings,
        preset=expected.preset,
        fusion=expected.fusion,
        usual_difference=expected.difference,
        usual_dice=expected.dice,
    )
