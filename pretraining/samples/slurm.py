"""Synthesis of an offline store by an array of Slurm jobs, each with one share of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretraining.common.errors import CommandFailed, InputError
from pretraining.samples.estimate import estimate_cost
from pretraining.samples.store import MissingSamples, begin_store, reconcile_config
from pretraining.samples.synthesize import Request, Share, packed_sample_maker, synthesize

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

LOGS = "slurm"
MAX_TIMEOUTS = 100
"""Maximum number of resubmissions after a timeout."""
GB_PER_WORKER = 2
"""Requested memory, GB; a worker at 128 voxels uses less than half of it."""


@dataclass(frozen=True, kw_only=True)
class ShareJob:
    """Work of one job: a share of the store."""

    request: Request
    store: Path
    workers: int
    verify: bool = False

    def __call__(self, share: Share) -> int:
        """Synthesize the share; return the number of shards still missing."""
        logging.basicConfig(format="%(message)s")
        logging.getLogger("pretraining").setLevel(logging.INFO)
        return synthesize(self.request, self.store, share=share, workers=self.workers, verify=self.verify)

    def checkpoint(self, share: Share) -> submitit.helpers.DelayedSubmission:
        """Return the job that submitit queues again after a timeout or preemption; it resumes."""
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
    """Submit an array of ``shares`` jobs that synthesize a store, and return at once.

    ``STORE/slurm`` holds the jobs' logs. If submitted again, jobs resume where they stopped, and
    those without work end at once.

    Args:
        request: Samples to synthesize.
        store: Folder of the store.
        shares: Number of jobs, at most one for each shard.
        workers: Number of cores per job.
        minutes: Time limit of each job, minutes; a job that reaches it is queued again.
        partition: Partition of the cluster. Default: the cluster's. Slurm's own variables, such as
            ``SBATCH_ACCOUNT``, set everything else.
        verify: Check of existing shards, see :func:`pretraining.samples.synthesize.synthesize`.
        cluster: ``slurm``, or ``local`` for processes on this machine.

    Returns:
        The submitted jobs.

    Raises:
        InputError: If submitit or Slurm is missing, or the store has another configuration or is
            too large for its disk.
        CommandFailed: If Slurm rejects the jobs.
    """
    if shares < 1 or workers < 1 or minutes < 1:
        raise InputError(
            f"expected at least 1 of --shards, --workers and --slurm-minutes, got {shares}, {workers} and {minutes}"
        )
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--executor slurm needs submitit; run: pip install submitit") from None
    if cluster == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
        raise InputError("no Slurm on this machine; submit from a login node, or use --executor local")
    # Jobs start in another working directory.
    store = store.absolute()
    config = reconcile_config(store, request.config())
    shares = min(shares, config.shard_count)
    if request.device == "cpu" or torch.cuda.is_available():  # a login node may have no GPU to try
        estimate_cost(
            packed_sample_maker(request), MissingSamples.on_disk(store, config), store, workers=shares * workers
        )
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
        raise CommandFailed(f"Slurm rejected the jobs: {error}") from None
    log.info("%s: %d jobs, %s and on; logs in %s", store, len(jobs), jobs[0].job_id, folder)
    return jobs
