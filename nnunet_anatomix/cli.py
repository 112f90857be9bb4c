"""Few-shot training in nnU-Net, and registration, with pretrained features."""

from __future__ import annotations

from nnunet_anatomix.commands.align import align
from nnunet_anatomix.commands.apply import apply
from nnunet_anatomix.commands.backbone import backbone
from nnunet_anatomix.commands.baseline import baseline
from nnunet_anatomix.commands.deliver import deliver
from nnunet_anatomix.commands.enlarge import enlarge
from nnunet_anatomix.commands.evaluate import evaluate
from nnunet_anatomix.commands.features import features
from nnunet_anatomix.commands.fit import fit, next_scan
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
from pretraining.common.command_help import Groups
from pretraining.common.command_line import run_commands


def main() -> None:
    """Run the command line of ``nnunet-anatomix``."""
    run_commands("nnunet-anatomix", _commands, __doc__ or "")


def _commands() -> Groups:
    return {
        "Segment with few labels": {
            "fit": fit,
            "plan": plan,
            "plan-and-preprocess": plan_and_preprocess,
            "split": split,
            "next": next_scan,
            "propagate": propagate,
            "enlarge": enlarge,
            "study": study,
        },
        "Register scans": {
            "register": register,
            "apply": apply,
            "align": align,
            "search": registration_search,
            "evaluate": evaluate,
        },
        "Work in a clinic": {
            "run": run,
            "intake": intake,
            "deliver": deliver,
        },
        "Use pretrained networks": {
            "features": features,
            "weights": weights,
            "backbone": backbone,
            "baseline": baseline,
        },
        "Check the installation, and reproduce the paper": {
            "demo": demo,
            "doctor": doctor,
            "prepare": prepare,
            "reproduce": reproduce,
        },
    }
