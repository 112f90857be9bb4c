"""Grid search over settings of ConvexAdam, with MIND-SSC alone and with features (App. A.2)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
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
    descent_stage,
    search_stage,
)
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
"""Key of a row: pair, method, digest of all settings outside the grid, combination."""
METHODS = {"mind": DescriptorConfig(feature_weight=0), "features": DescriptorConfig()}
"""Methods that the paper compares: ConvexAdam, and ConvexAdam-Ours."""


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
    """Register every pair with every method under every combination; the same call resumes it.

    Args:
        pairs: Pairs to register; the moving scan is first resampled to the fixed grid.
        out: Folder for ``results.csv``, one row per registration, and the files of
            :func:`~nnunet_anatomix.registration.tuning.report.write_report`.
        grid: Settings to search.
        net: Network in evaluation mode, on ``device``; not needed if features have no weight.
        methods: Name → descriptors.
        solver: Settings outside the grid.
        device: Device to compute on.

    Returns:
        The table, as Markdown.

    Raises:
        CommandFailed: If some pairs failed, after all others were registered. ``failed.csv`` lists
            them, and the table excludes them.
        InUse: If another process writes into ``out``.
        Interrupted: If this process is asked to stop; finished registrations are in
            ``results.csv``.

    Notes:
        Dice is the mean over labels of both scans, moved by nearest neighbour; folds are counted
        over the whole grid. A row does not depend on the rest of the grid: descriptors are computed
        for each ``pool``, as in a single registration, and the global search, which does not depend
        on λ, is run once for each pool, grid spacing and reach. Rows of other images, weights or
        settings stay in the file and are ignored.
    """
    device, out = torch.device(device), Path(out)
    with hold_lock(out):
        rows = {row.key: row for row in read_rows(out / RESULTS_FILE)}
        keys_by_pair: dict[str, list[Key]] = {}

        def keys_of(pair: SearchPair) -> list[Key]:
            if pair.name not in keys_by_pair:
                digests = {name: _settings_digest(pair, config, net, solver) for name, config in methods.items()}
                keys_by_pair[pair.name] = [
                    (pair.name, name, digest, combination)
                    for name, digest in digests.items()
                    for combination in grid.combinations()
                ]
            return keys_by_pair[pair.name]

        def work(pair: SearchPair) -> None:
            missing = [key for key in keys_of(pair) if key not in rows]
            loaded = load_pair(pair, device)
            configs_of = {
                name: [replace(solver, **key[-1]._asdict()) for key in missing if key[1] == name] for name in methods
            }
            _check_size(pair.name, loaded.fixed.image.shape, chain(*configs_of.values()), device)
            before = loaded.dice()
            with tqdm(total=len(keys_of(pair)), initial=len(keys_of(pair)) - len(missing), leave=False) as bar:
                for name, descriptor_config in methods.items():
                    bar.set_description(f"{pair.name}, {name}")
                    digest = next(key[2] for key in keys_of(pair) if key[1] == name)
                    for config, displacement in _solve_all(loaded, configs_of[name], descriptor_config, net):
                        row = ResultRow(
                            pair=pair.name,
                            method=name,
                            settings=digest,
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
                is_done=lambda pair: all(key in rows for key in keys_of(pair)),
                failures=out,
            )
        finished = [pair for pair in pairs if pair.name not in outcome.failed]
        text = write_report(out, [rows[key] for pair in finished for key in keys_of(pair)]) if finished else ""
    outcome.require_all("pairs", see=out / FAILURES)
    return text


def _check_size(name: str, sides: Sequence[int], configs: Iterable[ConvexAdamConfig], device: torch.device) -> None:
    """Check grid spacing and memory of all combinations before the search, which takes hours."""
    available = available_bytes(device)
    for least, spacing, reach in {(config.least_side, config.grid_spacing, config.reach) for config in configs}:
        coarse = [side // spacing for side in sides]
        if min(sides) < least:
            raise InputError(
                f"{name}: expected grid spacings of at most {min(sides)} voxels, its shortest side, found {least}; "
                "omit it"
            )
        if (needed := cost_bytes(prod(coarse), reach)) > available:
            raise InputError(
                f"{name}: reach {reach} at a grid spacing of {spacing} takes {format_bytes(needed)}B of memory, found "
                f"{format_bytes(available)}B free; omit one of them"
            )


def _solve_all(
    pair: LoadedPair,
    configs: Sequence[ConvexAdamConfig],
    descriptor_config: DescriptorConfig,
    net: FeatureNetwork | None,
) -> Iterator[tuple[ConvexAdamConfig, Tensor]]:
    """Yield the displacement of each setting, ordered so that common stages are computed once."""
    search_settings = ("pool", "grid_spacing", "reach")
    configs = sorted(configs, key=attrgetter(*search_settings, "adam_spacing", "smoothness"))
    for pool, of_pool in groupby(configs, key=attrgetter("pool")):
        described = descriptors(pair.fixed, pair.moving, descriptor_config, pool=pool, net=net)
        fixed_known, moving_known = pair.fixed.known, pair.moving.known
        for _, of_search in groupby(of_pool, key=attrgetter(*search_settings)):
            found = None
            for config in of_search:
                if found is None:
                    found = search_stage(*described, config, fixed_known=fixed_known, moving_known=moving_known)
                displacement = descent_stage(
                    *described,
                    found,
                    triple(pair.fixed.image.shape),
                    config,
                    fixed_known=fixed_known,
                    moving_known=moving_known,
                )
                require_finite(displacement, "displacement field")
                yield config, displacement


def _settings_digest(
    pair: SearchPair, descriptor_config: DescriptorConfig, net: FeatureNetwork | None, solver: ConvexAdamConfig
) -> str:
    """Return a digest of a row's inputs, without its combination and bf16 (machine-dependent)."""
    fixed_solver = replace(solver, **Combination(smoothness=1, grid_spacing=1, reach=1, adam_spacing=1)._asdict())
    digest = hashlib.sha256(
        repr((replace(descriptor_config, bf16=False), fixed_solver, pair.fixed_clip, pair.moving_clip)).encode()
    )
    if descriptor_config.feature_weight:
        if net is None:
            raise ValueError("feature_weight is above 0, expected a network, found none")
        digest.update(tensors_sha256(net.state_dict()).encode())
    for path in pair.files.values():
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()[:12]
