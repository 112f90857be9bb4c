"""``nnunet-anatomix backbone``: from a trained segmentation model to weights that others start from (Table 1, transfer learning)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import tyro

log = logging.getLogger(__name__)

_BACKBONE = "backbone."


def backbone(checkpoint: Annotated[Path, tyro.conf.Positional], out: Path) -> None:
    """Write the backbone of a model that AnatomixTrainer trained as a weights file; its segmentation heads stay behind.

    Args:
        checkpoint: checkpoint_final.pth or checkpoint_best.pth of nnU-Net's results folder.
        out: The .safetensors file to write.
    """
    from pretraining.backbone.weights import save_weights  # imports torch, which --help does without
    from pretraining.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"expected --out to end in .safetensors, found {out}")
    state, architecture, card = _read(checkpoint)
    sha256 = save_weights(out, state, architecture, card)
    log.info("%s holds the backbone of %s, sha256 %s", out, checkpoint, sha256)


def _read(path: Path) -> tuple[dict, object, dict]:
    """Tensors of the backbone, its architecture, and a card."""
    import pickle

    import torch

    from nnunet_anatomix.finetuning.network import AnatomixNetwork, backbone_config
    from pretraining.backbone.unet import UNet, UNetConfig
    from pretraining.errors import InputError

    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; nnU-Net writes fold_X/checkpoint_final.pth when a training ends")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors, plans = content["network_weights"], content["init_args"]["plans"]
        plan = plans["configurations"][content["init_args"]["configuration"]]["architecture"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path} is damaged or no checkpoint of nnU-Net's ({reason[:120]}); name a checkpoint_final.pth") from None
    state = {name.removeprefix(_BACKBONE): tensor for name, tensor in tensors.items() if name.startswith(_BACKBONE)}
    if not state:
        raise InputError(f"{path} holds no backbone of ours, but {next(iter(tensors), 'nothing')}, ...; train with -tr AnatomixTrainer")
    channels = state["stem.conv.weight"].shape[1]
    ours = plan["network_class_name"] == f"{AnatomixNetwork.__module__}.{AnatomixNetwork.__name__}"
    architecture = backbone_config(plan["arch_kwargs"], channels) if ours else UNetConfig(in_channels=channels)
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in UNet(architecture).state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        raise InputError(f"{path} holds a backbone that its plan does not describe; train it again with a plan of nnunet-anatomix")
    card = {
        "name": "fine-tuned",
        "dataset": plans.get("dataset_name"),
        "trainer": content.get("trainer_name"),
        "epochs": content.get("current_epoch"),
    }
    return state, architecture, card
