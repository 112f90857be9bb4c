"""Synthetic data engine, contrastive pretraining and backbone.

This package turns organ shapes into pretrained weights. It needs neither nnU-Net nor
``nnunet_anatomix``.
"""

from pretraining.common.lazy_names import lazy_names
from pretraining.common.versions import VERSION as __version__  # noqa: F401

_MODULES = {
    "EngineConfig": "engine.synthesis",
    "Pair": "engine.synthesis",
    "TemplateBank": "bank.template_bank",
    "TrainConfig": "learning.train_config",
    "UNet": "backbone.unet",
    "UNetConfig": "backbone.unet",
    "Weights": "backbone.weights",
    "find_weights": "backbone.find_weights",
    "load_preset": "presets.loading",
    "load_weights": "backbone.weights",
    "procedural_bank": "templates.procedural",
    "synthesize_pair": "engine.synthesis",
    "train": "learning.train",
}
__all__ = sorted(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
