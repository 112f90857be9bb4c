"""Checkpoints of nnssl, such as the OpenMind models: encoders of networks that nnU-Net has.

Their ``nnssl_adaptation_plan`` names the architecture and the keys of encoder and stem. As nnU-Net
does, encoder and stem are loaded and the decoder is trained from random values (``nnunetv2``, main
branch, ``training/nnUNetTrainer/pretraining/pretrainedTrainer.py``, commit 3605eea).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from nnunet_anatomix.finetuning.start_kind import NNSSL_PLAN
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.backbone.tensor_files import check_state, load_tensor_file
from pretraining.common.errors import InputError

RES_ENC_L: dict[str, Any] = {
    "features_per_stage": (32, 64, 128, 256, 320, 320),
    "n_blocks_per_stage": (1, 3, 4, 6, 6, 6),
}
"""Widths and depths that nnssl calls ResEncL."""
_TOKEN = 8
"""Side of Primus' tokens, voxels."""
_FEATURES = 32
"""Channels of Primus' new decoder, before the segmentation head."""


class ResEncL(ResidualEncoderUNet):
    """Residual encoder U-Net of isotropic kernels, as nnssl pretrains it.

    Args:
        input_channels: Input channels.
        num_classes: Output channels of its own head.
        features_per_stage: Channels of the stages.
        n_blocks_per_stage: Residual blocks of the stages.
    """

    def __init__(
        self, input_channels: int, num_classes: int, features_per_stage: list[int], n_blocks_per_stage: list[int]
    ) -> None:
        stages = len(features_per_stage)
        super().__init__(
            input_channels=input_channels,
            n_stages=stages,
            features_per_stage=features_per_stage,
            conv_op=nn.Conv3d,
            kernel_sizes=[[3, 3, 3]] * stages,
            strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            n_blocks_per_stage=n_blocks_per_stage,
            num_classes=num_classes,
            n_conv_per_stage_decoder=[1] * (stages - 1),
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
        self.apply(self.initialize)


def read_nnssl(path: Path) -> tuple[NetworkSpec, dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Read a checkpoint of nnssl.

    Args:
        path: ``.pth`` file with ``network_weights`` and ``nnssl_adaptation_plan``.

    Returns:
        Description of the network; state of its encoder and stem; and, for Primus, the name of the
        position embedding → its (X, Y, Z) tokens.

    Raises:
        InputError: If the file is damaged, or its architecture is not ResEncL or a Primus.
    """
    content = load_tensor_file(path, "expected a checkpoint of nnssl with network_weights and nnssl_adaptation_plan")
    try:
        plan, weights = content[NNSSL_PLAN], content["network_weights"]
        name = plan["architecture_plans"]["arch_class_name"]
        parts = {"encoder": plan["key_to_encoder"], "stem": plan["key_to_stem"]}
        channels = plan["pretrain_num_input_channels"]
        (configuration, *_) = plan["pretrain_plan"]["configurations"].values()
        patch = plan.get("pretrain_patch_size", configuration["patch_size"])
        if not isinstance(weights, Mapping) or channels != 1 or len(patch) != 3:
            raise ValueError(f"{channels} input channels and a patch of {patch}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected nnssl's adaptation plan of a 3D network with one input channel, found {error!r}; "
            "write the checkpoint with nnssl's converter"
        ) from None
    check_state(path, weights, floats_only=False)
    if name == "ResEncL":
        state = _select(path, weights, parts, {"encoder": "encoder.stages", "stem": "encoder.stem"})
        return _res_enc(path.name), state, {}
    if name in ("PrimusS", "PrimusB", "PrimusM", "PrimusL"):
        state = _select(path, weights, parts, {"encoder": "eva", "stem": "down_projection"})
        state.pop("eva.cls_token", None)
        return _primus(name, path.name), state, {"eva.pos_embed": tuple(side // _TOKEN for side in patch)}
    raise InputError(
        f"{path}: expected the architecture ResEncL, PrimusS, PrimusB, PrimusM or PrimusL, found {name}; "
        "describe the network in a JSON file (docs/how-to/baselines.md)"
    )


def _res_enc(state: str) -> NetworkSpec:
    return NetworkSpec(
        network=f"{ResEncL.__module__}.{ResEncL.__qualname__}",
        kwargs={"input_channels": 1, "num_classes": 1} | {name: list(sizes) for name, sizes in RES_ENC_L.items()},
        state=state,
        ignore=("decoder.seg_layers.",),
        new=("decoder.",),
        multiple=2 ** (len(RES_ENC_L["features_per_stage"]) - 1),
        min_side=2 ** len(RES_ENC_L["features_per_stage"]),
        standardize=True,
    )


def _primus(name: str, state: str) -> NetworkSpec:
    return NetworkSpec(
        network=f"dynamic_network_architectures.architectures.primus.{name}",
        kwargs={"input_channels": 1, "output_channels": _FEATURES, "patch_embed_size": [_TOKEN] * 3},
        state=state,
        size_argument="input_shape",
        new=("up_projection.", "mask_token"),
        multiple=_TOKEN,
        standardize=True,
    )


def _select(
    path: Path, weights: Mapping[str, Tensor], parts: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, Tensor]:
    """Take encoder and stem, with the keys that they have in nnU-Net's network."""
    state: dict[str, Tensor] = {}
    for part, prefix in parts.items():
        names = [name for name in weights if name.startswith(f"{prefix}.")]
        if not names:
            raise InputError(
                f"{path}: expected tensors '{prefix}.*' of its {part}, found {list(weights)[:3]}; fetch it again"
            )
        state |= {f"{own[part]}.{name.removeprefix(f'{prefix}.')}": weights[name] for name in names}
    return state
