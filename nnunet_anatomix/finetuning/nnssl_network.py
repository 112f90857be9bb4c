"""Backbone for nnU-Net's own route for pretrained weights (``nnUNetv2_train_pretrained``)."""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from pretraining.backbone.nnssl import BODY


class AnatomixPlainConvUNet(AnatomixNetwork):
    """:class:`AnatomixNetwork` with the names of its parts, which nnU-Net's reader looks up.

    nnU-Net loads the stem and one more module, with all of their tensors. That module,
    ``body``, is a view of the rest of the backbone, so that the network's own state dict is that of
    :class:`AnatomixNetwork`.

    Notes:
        nnU-Net builds networks by name only if the name ends in ``PlainConvUNet`` or
        ``ResidualEncoderUNet``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.key_to_stem = "backbone.stem"
        self.key_to_encoder = BODY
        self.keys_to_in_proj = ("backbone.stem.conv",)
        self.key_to_lpe = None

    @property
    def body(self) -> nn.ModuleDict:
        """The backbone without its stem."""
        return nn.ModuleDict({name: part for name, part in self.backbone.named_children() if name != "stem"})
