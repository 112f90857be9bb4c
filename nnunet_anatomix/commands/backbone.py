"""Command ``nnunet-anatomix backbone``: export a fine-tuned backbone for transfer (Table 1)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from pretraining.backbone.unet import UNetConfig

log = logging.getLogger(__name__)

_BACKBONE = "backbone."


def backbone(checkpoint: Annotated[Path, tyro.conf.Positional], out: Path) -> None:
    """Export the backbone of a fine-tuned model as a weights file.

    Args:
        checkpoint: checkpoint_final.pth or checkpoint_best.pth of a training with AnatomixTrainer.
        out: File to write, .safetensors.
    """
    from pretraining.backbone.weights import save_weights  # imports torch, which --help does not need
    from pretraining.common.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"expected --out to end in .safetensors, found {out}")
    state, architecture, card = _read_checkpoint(checkpoint)
    sha256 = save_weights(out, state, architecture, card)
    log.info("%s holds the backbone of %s, sha256 %s", out, checkpoint, sha256)


def _read_checkpoint(path: Path) -> tuple[dict, UNetConfig, dict]:
    """Read the tensors of the backbone and its architecture, and compose a card."""
    import torch

    from nnunet_anatomix.finetuning.network import AnatomixNetwork, backbone_config
    from pretraining.backbone.tensor_files import check_state, load_tensor_file
    from pretraining.backbone.unet import UNet, UNetConfig
    from pretraining.common.errors import InputError

    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; nnU-Net writes fold_X/checkpoint_final.pth when a training ends")
    content = load_tensor_file(path, "expected a checkpoint of nnU-Net; give a checkpoint_final.pth")
    try:
        tensors, plans = dict(content["network_weights"]), content["init_args"]["plans"]
        plan = plans["configurations"][content["init_args"]["configuration"]]["architecture"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a checkpoint of nnU-Net ({error!r}); give a checkpoint_final.pth") from None
    check_state(path, tensors, floats_only=False)
    state = {name.removeprefix(_BACKBONE): tensor for name, tensor in tensors.items() if name.startswith(_BACKBONE)}
    if not state:
        raise InputError(
            f"{path} does not contain a backbone of AnatomixTrainer, but {next(iter(tensors), 'nothing')}, ...; "
            "train with -tr AnatomixTrainer"
        )
    channels = state["stem.conv.weight"].shape[1]
    ours = plan["network_class_name"] == f"{AnatomixNetwork.__module__}.{AnatomixNetwork.__name__}"
    architecture = backbone_config(plan["arch_kwargs"], channels) if ours else UNetConfig(in_channels=channels)
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in UNet(architecture).state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        raise InputError(
            f"{path} contains a backbone that its plan does not describe; train it again with a plan of nnunet-anatomix"
        )
    card = {
        "name": "fine-tuned",
        "dataset": plans.get("dataset_name"),
        "trainer": content.get("trainer_name"),
        "epochs": content.get("current_epoch"),
    }
    return state, architecture, card
