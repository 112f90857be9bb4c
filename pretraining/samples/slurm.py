"""Filling an offline store by an array of Slurm jobs, each with one share of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretraining.common.errors import CommandFailed, InputError
from pretraining.samples.estimate import estimate_cost
from pretraining.samples.store import MissingSamples, begin_store, reconcile_config
from pretraining.samples.synthesize import Request, Share, sample_maker, synthesize

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

LOGS = "slurm"
MAX_TIMEOUTS = 100
"""So many times a job may run out of time."""
GB_PER_WORKER = 2
"""Memory that is asked for: a worker at 128 voxels takes less than half of it."""


@dataclass(frozen=True, kw_only=True)
class ShareJob:
    """What one job does."""

    request: Request
    store: Path
    workers: int
    verify: bool = False

    def __call__(self, share: Share) -> int:
        """Make the share."""
        logging.basicConfig(format="%(message)s")
        logging.getLogger("pretraining").setLevel(logging.INFO)
        return synthesize(self.request, self.store, share=share, workers=self.workers, verify=self.verify)

    def checkpoint(self, share: Share) -> submitit.helpers.DelayedSubmission:
        """What submitit puts into the queue again for a job that ran out of time or was preempted: it goes on where it stopped."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, share)


def submit(
    request: Request,
    store: Path,
    *,
    shares: int,
    workers: int,
    minutes: int,
    partition: str | None = None,
    verify: bool = False,
    cluster: str = "slurm",
) -> list[submitit.Job[Any]]:
    """Hand a store to ``shares`` jobs of one array and return at once; ``STORE/slurm`` holds their logs.

    Started again, jobs go on where they stopped, and those that have nothing to do end at once.

    Args:
        shares: Jobs, at most one for each file.
        workers: Cores of each.
        minutes: Limit of each; one that runs into it queues again by itself.
        partition: Of the cluster; None: its default. All else can be set by Slurm's own variables,
            such as ``SBATCH_ACCOUNT``.
        verify: See :func:`pretraining.samples.synthesize.synthesize`.
        cluster: ``slurm``, or ``local`` for processes on this machine.

    Raises:
        InputError: If submitit is missing, there is no Slurm here, or the store is of another
            configuration or too large for its disk.
        CommandFailed: If Slurm does not take the jobs.
    """
    if shares < 1 or workers < 1 or minutes < 1:
        raise InputError(
            f"expected at least 1 of --shards, --workers and --slurm-minutes, got {shares}, {workers} and {minutes}"
        )
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--executor slurm needs submitit; run: pip install 'nnunet-anatomix[slurm]'") from None
    if cluster == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
        raise InputError("no Slurm on this machine; submit from a login node, or use --executor local")
    # A job starts in another folder.
    store = store.absolute()
    config = reconcile_config(store, request.config())
    shares = min(shares, config.shard_count)
    if request.device == "cpu" or torch.cuda.is_available():  # a login node may have no GPU to try
        estimate_cost(sample_maker(request), MissingSamples.on_disk(store, config), store, workers=shares * workers)
    begin_store(store, config)
    folder = store / LOGS
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
    memory = GB_PER_WORKER * (workers + 1)
    executor.update_parameters(
        name="anatomix-synthesize",
        timeout_min=minutes,
        cpus_per_task=workers,
        mem_gb=memory,
        slurm_array_parallelism=shares,
    )
    if config.device == "cuda":
        executor.update_parameters(gpus_per_node=1)
    if partition:
        executor.update_parameters(slurm_partition=partition)
    job = ShareJob(request=request, store=store, workers=workers, verify=verify)
    try:
        jobs = executor.map_array(job, [Share(number, shares) for number in range(shares)])
    except submitit.core.utils.FailedJobError as error:
        raise CommandFailed(f"Slurm did not take the jobs: {error}") from None
    log.info("%s: %d jobs, %s and on; logs in %s", store, len(jobs), jobs[0].job_id, folder)
    return jobs
