"""Commands of the tables, with the settings of the paper or smaller ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunet_anatomix.reproduce.plan import Step, TunedFlags
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import PairSource, SegmentationSource
from nnunet_anatomix.study.runs import start_name
from pretraining.backbone.find_weights import resolve_weights

SEARCH_FLAGS = {
    "smoothness": "--smoothness",
    "grid_spacing": "--grid-spacing",
    "reach": "--reach",
    "adam_spacing": "--adam-spacing",
}
"""Setting of ConvexAdam → flag of ``search`` and ``register``."""
PUBLISHED_FLAGS = ("--iterations", "80", "--regularization", "diffusion", "--no-unfold")
"""Settings of the paper's descent, which are no part of its search."""


def network_rows(networks: Sequence[Path], paper: Collection[str]) -> dict[str, Path]:
    """Return row → file of other networks; a file named like a row of the paper becomes that row.

    Args:
        networks: JSON files of other networks, or weights files.
        paper: Rows of the paper's table.
    """
    known = {network_file(row).removesuffix(".json"): row for row in paper}
    return {known.get(path.stem.lower(), start_name(str(path))): path for path in networks}


def network_file(row: str) -> str:
    """Return the name of the JSON file that becomes a row of the paper."""
    return f"{row.lower().replace(' ', '_')}.json"


def our_start(settings: Settings) -> str:
    """Return the start of the row Ours, as ``study --starts`` takes it."""
    return settings.weights or "weights"


def study_step(
    settings: Settings,
    source: SegmentationSource,
    starts: tuple[str, ...],
    shots: tuple[int, ...] = (),
    after: tuple[str, ...] = (),
) -> Step:
    """Return the command that fine-tunes and tests, on all training volumes without ``shots``."""
    scale = settings.scale
    names = "+".join(start_name(start) for start in starts)
    command: list[str | Path | TunedFlags] = [
        "nnunet-anatomix",
        "study",
        "-d",
        source.folder,
        "--out",
        study_folder(settings, source),
    ]
    if shots:
        command += ["--shots", *map(str, shots)]
    command += ["--seeds", *map(str, scale.seeds), "--starts", *starts, "--iterations", str(scale.iterations)]
    command += ["--recipe", "paper"]
    if scale.max_patch is not None:
        command += ["--max-patch", str(scale.max_patch)]
    elif source.crop is not None and source.spacing_mm is not None:
        command += [
            "--patch",
            *[str(source.crop)] * 3,
            "--spacing",
            *(f"{spacing:g}" for spacing in reversed(source.spacing_mm)),
        ]
    if batch := scale.batch or source.batch:
        command += ["--batch", str(batch)]
    budget = "all" if not shots else "-".join(map(str, shots))
    return Step(
        name=f"study_{source.folder}_{budget}_{names}", command=(*command, "--device", settings.device), after=after
    )


def study_folder(settings: Settings, source: SegmentationSource) -> Path:
    """Return the folder of the studies of one dataset, which tables share."""
    return settings.out / "studies" / source.folder


def search_step(settings: Settings, source: PairSource) -> Step:
    """Return the grid search on the pairs for tuning, with MIND-SSC alone and with features."""
    grid = settings.scale.grid
    values = {flag: getattr(grid, name) for name, flag in SEARCH_FLAGS.items()}
    flags = [word for flag, numbers in values.items() for word in (flag, *(f"{number:g}" for number in numbers))]
    command: tuple[str | Path, ...] = (
        "nnunet-anatomix",
        "search",
        "--pairs",
        source.folder / "validation.csv",
        "--out",
        search_folder(settings, source),
        *flags,
        *PUBLISHED_FLAGS,
    )
    weights: tuple[str | Path, ...] = () if settings.weights is None else ("--weights", settings.weights)
    return Step(
        name=f"search_{_slug(source.title)}",
        command=(*command, *weights, *_clip_flags(source), "--device", settings.device),
    )


def search_folder(settings: Settings, source: PairSource) -> Path:
    """Return the folder of the search on these pairs."""
    return settings.out / "searches" / _slug(source.title)


def register_step(
    settings: Settings,
    source: PairSource,
    method: str,
    solver: str,
    features: str | Path | None,
    *,
    tuned: TunedFlags | None = None,
    program: str | None = None,
    after: tuple[str, ...] = (),
) -> Step:
    """Return the command that registers the pairs for testing.

    Args:
        settings: Settings of the reproduction.
        source: Pairs.
        method: Name of the method, and of its folder.
        solver: Flag ``--solver``.
        features: Flag ``--features``. Default: ``ANATOMIX_WEIGHTS``, else the bundled weights.
        tuned: Settings that a search found. Default: those of ``register``.
        program: Flag ``--program``. Default: the solver.
        after: Steps that must be finished first.

    Returns:
        The step.
    """
    command: list[str | Path | TunedFlags] = ["nnunet-anatomix", "register", "--pairs", source.folder / "test.csv"]
    command += ["--out", register_folder(settings, source, method), "--solver", solver, "--init", source.settings.init]
    command += ["--features", resolve_weights()[1] if features is None else features]
    command += ["--overlap", f"{settings.scale.overlap:g}", *_clip_flags(source)]
    command += [tuned, *PUBLISHED_FLAGS] if tuned is not None else []
    command += ["--program", program] if program is not None else []
    return Step(
        name=f"register_{_slug(source.title)}_{method}", command=(*command, "--device", settings.device), after=after
    )


def register_folder(settings: Settings, source: PairSource, method: str) -> Path:
    """Return the folder of one method's registrations of the pairs for testing."""
    return settings.out / "registrations" / _slug(source.title) / method


def pretraining_steps(settings: Settings, preset: str, bank: Path | None) -> tuple[list[Step], Path]:
    """Return the steps that pretrain with a preset and export, and the resulting weights file."""
    folder, scale = settings.out / "pretraining" / preset, settings.scale
    weights = folder / f"{preset}.safetensors"
    templates = () if bank is None else ("--templates", bank)
    train = ("anatomix-pretrain", "train", "--out", folder / "run", *templates, "--preset", preset, "--resume")
    size = ("--steps", str(scale.pretraining_steps), "--engine.side", str(scale.pretraining_side))
    validation = ("--validate-every", str(min(1000, scale.pretraining_steps)))
    steps = [
        Step(name=f"pretrain_{preset}", command=(*train, *size, *validation, "--device", settings.device)),
        Step(
            name=f"export_{preset}",
            command=("anatomix-pretrain", "export", folder / "run", "--out", weights),
            after=(f"pretrain_{preset}",),
        ),
    ]
    return steps, weights


def _clip_flags(source: PairSource) -> list[str]:
    clips = {"--fixed-clip": source.settings.fixed_clip, "--moving-clip": source.settings.moving_clip}
    return [word for flag, clip in clips.items() if clip for word in (flag, *(f"{bound:g}" for bound in clip))]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
