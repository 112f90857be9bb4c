"""The paper's grid search: ConvexAdam on MIND-SSC, alone and with features, under every combination of settings (App. A.2)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import prod
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from nnunet_anatomix.registration.descriptors import DescriptorConfig, descriptors
from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.solvers.convex import cost_bytes
from nnunet_anatomix.registration.solvers.convexadam import (
    ConvexAdamConfig,
    descent_dissimilarity,
    descent_stage,
    search_stage,
)
from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.tuning.grid import Combination, SearchGrid
from nnunet_anatomix.registration.tuning.pairs import LoadedPair, SearchPair, load_pair
from nnunet_anatomix.registration.tuning.report import ResultRow, append_rows, read_rows, write_report
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference_memory import available_bytes
from pretraining.backbone.weights import tensors_sha256
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_sha256
from pretraining.common.finite import require_finite
from pretraining.common.lock import hold_lock
from pretraining.common.triple import triple

log = logging.getLogger(__name__)

RESULTS_FILE = "results.csv"
Key = tuple[str, str, str, Combination]
"""Of a row: pair, method, digest of all settings that are not searched, and what is searched."""
METHODS = {"mind": DescriptorConfig(feature_weight=0), "features": DescriptorConfig()}
"""What the paper compares: ConvexAdam, and ConvexAdam-Ours."""


def grid_search(
    pairs: Sequence[SearchPair],
    out: Path,
    grid: SearchGrid,
    *,
    net: FeatureNetwork | None = None,
    methods: Mapping[str, DescriptorConfig] = METHODS,
    solver: ConvexAdamConfig = ConvexAdamConfig(),  # noqa: B008, it's frozen
    device: torch.device | str = "cpu",
) -> str:
    """Register every pair with every method under every combination; killed, it goes on where it was.

    Args:
        pairs: To register; the moving scan is resampled to the fixed grid before.
        out: Folder for ``results.csv``, one row a registration, and what
            :func:`~nnunet_anatomix.registration.tuning.report.write_report` makes of it.
        grid: What to try.
        net: In evaluation mode, on ``device``; not needed where features have no weight.
        methods: Name → descriptors.
        solver: The settings that are not searched.
        device: To compute on.

    Returns:
        The table, as Markdown.

    Raises:
        CommandFailed: After all others, if some pairs failed: scans that can't be registered, or
            more memory needed than there is. ``failed.csv`` lists them; the table is of the other
            pairs.
        InUse: If another process writes into ``out``.
        Interrupted: As soon as this process is asked to stop; finished registrations are in
            ``results.csv``.

    Notes:
        Dice is the mean over labels that both scans have, moved by nearest neighbour; folds are
        counted over the whole grid. A row is the same whatever else the grid holds: descriptors are
        made for each ``pool``, as a single registration makes them, and the global search, which
        knows nothing of λ, is run once for each pool, grid spacing and reach. Rows of other images,
        weights or settings stay in the file and take no part.
    """
    device, out = torch.device(device), Path(out)
    with hold_lock(out):
        rows = {row.key: row for row in read_rows(out / RESULTS_FILE)}
        wanted: dict[str, list[Key]] = {}

        def wanted_of(pair: SearchPair) -> list[Key]:
            if pair.name not in wanted:
                settings = {name: _settings(pair, config, net, solver) for name, config in methods.items()}
                wanted[pair.name] = [
                    (pair.name, *both, combination) for both in settings.items() for combination in grid.combinations()
                ]
            return wanted[pair.name]

        def work(pair: SearchPair) -> None:
            missing = [key for key in wanted_of(pair) if key not in rows]
            loaded = load_pair(pair, device)
            _check_size(pair.name, loaded.fixed.image.shape, [key[-1] for key in missing], device)
            before = loaded.dice()
            with tqdm(total=len(wanted_of(pair)), initial=len(wanted_of(pair)) - len(missing), leave=False) as bar:
                for name, description in methods.items():
                    bar.set_description(f"{pair.name}, {name}")
                    configs = [replace(solver, **key[-1]._asdict()) for key in missing if key[1] == name]
                    setting = next(key[2] for key in wanted_of(pair) if key[1] == name)
                    for config, displacement in _solved(loaded, configs, description, net):
                        row = ResultRow(
                            pair=pair.name,
                            method=name,
                            settings=setting,
                            **{field: getattr(config, field) for field in Combination._fields},
                            dice_before=before,
                            dice=loaded.dice(displacement),
                            folded_share=folded_share(displacement),
                        )
                        rows[row.key] = row
                        append(row)
                        bar.update()

        with append_rows(out / RESULTS_FILE) as append:
            outcome = run_batch(
                {pair.name: pair for pair in pairs},
                work,
                noun="pair",
                is_done=lambda pair: all(key in rows for key in wanted_of(pair)),
                failures=out,
            )
        finished = [pair for pair in pairs if pair.name not in outcome.failed]
        text = write_report(out, [rows[key] for pair in finished for key in wanted_of(pair)]) if finished else ""
    outcome.require_all("pairs", see=out / FAILURES)
    return text


def _check_size(name: str, sides: Sequence[int], combinations: Iterable[Combination], device: torch.device) -> None:
    """Find out now what would end the search after hours."""
    there = available_bytes(device)
    for spacing, reach in {(one.grid_spacing, one.reach) for one in combinations}:
        coarse = [side // spacing for side in sides]
        if min(coarse) < 1:
            raise InputError(f"{name}: a grid spacing of {spacing} is more than {min(sides)} voxels; leave it out")
        if (needed := cost_bytes(prod(coarse), reach)) > there:
            raise InputError(
                f"{name}: reach {reach} at a grid spacing of {spacing} takes {format_bytes(needed)}B of memory, there is "
                f"{format_bytes(there)}B; leave one of them out"
            )


def _solved(
    pair: LoadedPair, configs: Sequence[ConvexAdamConfig], description: DescriptorConfig, net: FeatureNetwork | None
) -> Iterator[tuple[ConvexAdamConfig, Tensor]]:
    """The displacement of each setting, in an order that lets what they have in common be computed once."""
    in_common = ("pool", "grid_spacing", "reach")
    configs = sorted(configs, key=attrgetter(*in_common, "adam_spacing", "smoothness"))
    for pool, of_pool in groupby(configs, key=attrgetter("pool")):
        described = descriptors(pair.fixed, pair.moving, description, pool=pool, net=net)
        fixed_known, moving_known = pair.fixed.known, pair.moving.known
        dissimilarities: dict[int, Dissimilarity] = {}
        for _, of_search in groupby(of_pool, key=attrgetter(*in_common)):
            found = None
            for config in of_search:
                if found is None:
                    found = search_stage(*described, config, fixed_known=fixed_known, moving_known=moving_known)
                if config.adam_spacing not in dissimilarities:
                    dissimilarities[config.adam_spacing] = descent_dissimilarity(
                        *described, config, fixed_known=fixed_known, moving_known=moving_known
                    )
                displacement = descent_stage(
                    dissimilarities[config.adam_spacing], found, triple(pair.fixed.image.shape), config
                )
                require_finite(displacement, "displacement field")
                yield config, displacement


def _settings(
    pair: SearchPair, description: DescriptorConfig, net: FeatureNetwork | None, solver: ConvexAdamConfig
) -> str:
    """Digest of all that a row depends on beside its combination; of bf16, which depends on the machine, it knows nothing."""
    searched = replace(solver, **Combination(smoothness=1, grid_spacing=1, reach=1, adam_spacing=1)._asdict())
    digest = hashlib.sha256(
        repr((replace(description, bf16=False), searched, pair.fixed_clip, pair.moving_clip)).encode()
    )
    if description.feature_weight:
        if net is None:
            raise ValueError("features have a weight, but there is no network to make them")
        digest.update(tensors_sha256(net.state_dict()).encode())
    for path in pair.files.values():
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()[:12]
