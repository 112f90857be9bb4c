"""Command ``nnunet-anatomix run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from pretraining.common.processes import available_cores
from pretraining.common.rare_flags import Rare

if TYPE_CHECKING:
    from nnunet_anatomix.clinical.running.routes import Route
    from nnunet_anatomix.clinical.running.run import Incoming

Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(aliases=["-device"])]


def run(
    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")],
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")],
    model: Annotated[str | None, tyro.conf.arg(aliases=["-m"])] = None,
    routes: Path | None = None,
    maps: Rare[Annotated[tuple[str, ...], tyro.conf.arg(name="map")]] = (),
    folds: Rare[tuple[str, ...]] = (),
    originals_only: Rare[bool] = False,
    mirroring: Rare[bool] = True,
    format: Literal["dicom", "nifti", "both"] = "both",
    overview: Rare[bool] = True,
    dicom: Annotated[DicomOptions, tyro.conf.arg(name="")] = DicomOptions(),  # noqa: B008  # frozen
    device: Device = "auto",
    workers: Rare[int | None] = None,
    watch: bool = False,
    settle_s: Rare[float] = 60.0,
    fetch: str | None = None,
    query: tuple[str, ...] = (),
    receive: str | None = None,
    send: tuple[str, ...] = (),
) -> None:
    """Segment clinical scans: intake, prediction by nnU-Net and deliver in one.

    DST/intake, DST/predictions and DST/results are as of the single commands; with --routes they
    are in DST/NAME. If interrupted, run the same command again to resume. Results of a study that
    changes are replaced.

    Args:
        src: Folder with scans; read only, except for what --fetch and --receive put there.
        dst: New or empty folder, or that of an earlier run.
        model: Folder of a trained model, or ID or name of a dataset with one trained model.
        routes: YAML file with several models and the modality, body part and description that each
            takes; instead of --model.
        maps: Rules CHANNEL=FIELD:PATTERN, as of nnunet-anatomix intake.
        folds: Folds that predict. Default: all that are trained.
        originals_only: Take no CT that is lossy compressed or derived, as nnunet-anatomix intake.
        mirroring: Predict mirrored scans as well, as nnU-Net does; up to eight times slower.
        format: Formats to deliver.
        overview: One overview picture per case.
        dicom: DICOM objects to deliver.
        device: Device for the prediction.
        workers: Number of processes of the intake. Default: all cores.
        watch: Do not end, but take each study that arrives in SRC.
        settle_s: Time without a change after which a study is complete, seconds.
        fetch: URL of a DICOMweb service; scans that match --query are fetched into SRC.
        query: Studies to fetch, as ATTRIBUTE=VALUE of QIDO: StudyDate=20260101-.
        receive: Own address AET@HOST:PORT for C-STORE into SRC; needs --watch.
        send: Receivers of the DICOM results: URL of a DICOMweb service, or AET@HOST:PORT.
    """
    from nnunet_anatomix.clinical.network.sending import find_receiver
    from nnunet_anatomix.clinical.running.pipeline import build_pipeline
    from nnunet_anatomix.clinical.running.run import run as run_routes
    from pretraining.common.errors import InputError

    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected 1 or more, found {workers}")
    if settle_s <= 0:
        raise InputError(f"--settle-s: expected more than 0 seconds, found {settle_s:g}")
    if send and format == "nifti":
        raise InputError("--send needs DICOM results; use --format dicom or both")
    own = {"map": maps, "originals_only": originals_only, "folds": folds, "mirroring": mirroring}
    chosen = _choose_routes(model, routes, own)
    incoming = _choose_incoming(fetch, query, receive, watch)
    receivers = [find_receiver(text) for text in send]
    workers = workers or available_cores()
    pipelines = [
        build_pipeline(
            route,
            dst.resolve(),
            device=_choose_device() if device == "auto" else device,
            format=format,
            overview=overview,
            dicom=dicom,
            workers=workers,
            receivers=receivers,
        )
        for route in chosen
    ]
    run_routes(src, dst, pipelines, incoming=incoming, settle_s=settle_s if watch else None, workers=workers)


def _choose_routes(model: str | None, routes: Path | None, own: dict[str, Any]) -> Sequence[Route]:
    """Return the only route, with the settings of ``own``, or those of a file."""
    from nnunet_anatomix.clinical.running.routes import Route, read_routes
    from pretraining.common.errors import UsageError

    route = Route(name="", model=model or "", **own)
    if routes is None and model is not None:
        return [route]
    if routes is None or model is not None:
        raise UsageError("give a model to -m, or a file with several models to --routes")
    if route != Route(name="", model=""):
        raise UsageError(
            "--map, --originals-only, --folds and --no-mirroring belong to one model; "
            "write them into the file of --routes"
        )
    return read_routes(routes)


def _choose_incoming(fetch: str | None, query: tuple[str, ...], receive: str | None, watch: bool) -> Incoming:
    from nnunet_anatomix.clinical.network.addresses import check_url, parse_dimse_address
    from nnunet_anatomix.clinical.network.dicomweb import Archive
    from nnunet_anatomix.clinical.running.run import Incoming
    from pretraining.common.errors import InputError, UsageError

    if bool(fetch) != bool(query):
        raise UsageError("--fetch URL and --query ATTRIBUTE=VALUE belong together: an archive is never fetched whole")
    if receive and not watch:
        raise UsageError("--receive needs --watch: without it the command ends before anything is received")
    filters = {}
    for text in query:
        attribute, _, value = text.partition("=")
        if not attribute.isalnum() or not value:
            raise InputError(f"--query: expected ATTRIBUTE=VALUE such as StudyDate=20260101-, found '{text}'")
        filters[attribute] = value
    return Incoming(
        archive=Archive(check_url(fetch, "--fetch"), "--fetch") if fetch else None,
        query=filters,
        listen=parse_dimse_address(receive, "--receive") if receive else None,
    )


def _choose_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
