"""Few-shot nnU-Net training and multi-modality registration with pretrained features."""

from pretraining.common.lazy_names import lazy_names
from pretraining.common.versions import VERSION as __version__  # noqa: F401

_MODULES = {
    "Registration": "registration.register",
    "RegistrationConfig": "registration.config",
    "evaluate_segmentation": "scores.segmentation",
    "extract_features": "features.extract",
    "register": "registration.register",
    "write_plan": "finetuning.planning",
}
__all__ = sorted(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
