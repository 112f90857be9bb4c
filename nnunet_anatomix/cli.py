"""Few-shot nnU-Net training and multi-modality registration with pretrained features."""

from __future__ import annotations

from collections.abc import Callable

from nnunet_anatomix.commands.align import align
from nnunet_anatomix.commands.apply import apply
from nnunet_anatomix.commands.backbone import backbone
from nnunet_anatomix.commands.baseline import baseline
from nnunet_anatomix.commands.deliver import deliver
from nnunet_anatomix.commands.evaluate import evaluate
from nnunet_anatomix.commands.features import features
from nnunet_anatomix.commands.intake import intake
from nnunet_anatomix.commands.plan import plan, plan_and_preprocess
from nnunet_anatomix.commands.prepare import prepare
from nnunet_anatomix.commands.propagate import propagate
from nnunet_anatomix.commands.register import register
from nnunet_anatomix.commands.reproduce import reproduce
from nnunet_anatomix.commands.run import run
from nnunet_anatomix.commands.search import registration_search
from nnunet_anatomix.commands.setup import demo, doctor
from nnunet_anatomix.commands.study import split, study
from nnunet_anatomix.commands.weights import weights
from pretraining.common.command_line import run_commands


def main() -> None:
    """Run the command line of ``nnunet-anatomix``."""
    run_commands("nnunet-anatomix", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    return {
        "plan": plan,
        "plan-and-preprocess": plan_and_preprocess,
        "split": split,
        "prepare": prepare,
        "reproduce": reproduce,
        "study": study,
        "features": features,
        "propagate": propagate,
        "register": register,
        "apply": apply,
        "align": align,
        "search": registration_search,
        "evaluate": evaluate,
        "intake": intake,
        "deliver": deliver,
        "run": run,
        "weights": weights,
        "backbone": backbone,
        "baseline": baseline,
        "doctor": doctor,
        "demo": demo,
    }
