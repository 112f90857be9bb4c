"""Small template bank of whole subjects, for the tests of real label maps."""

from __future__ import annotations

import numpy as np

from pretraining.bank.bank_index import IndexBuilder, TemplateEntry
from pretraining.bank.packing import pack
from pretraining.bank.template_bank import TemplateBank


def bank_of_subjects(
    subjects: dict[tuple[str, str], list[np.ndarray]], regions: dict[str, str] | None = None
) -> TemplateBank:
    """Make a bank of subjects.

    Args:
        subjects: Masks (X, Y, Z) of the organs of each (source, subject), in the subject's volume.
        regions: Region of each source.
    """
    builder, bits = IndexBuilder(), []
    for (source, subject), masks in subjects.items():
        for i, mask in enumerate(masks):
            packed = pack(mask)
            builder.add(TemplateEntry.of(packed, source=source, subject=subject, organ=f"organ {i}"), packed.bits)
            bits.append(packed.bits)
    notes = {"regions": regions} if regions else None
    return TemplateBank(builder.build(spacing_mm=1.5, notes=notes), np.concatenate(bits))


def body(count: int, shape: tuple[int, int, int] = (60, 44, 52), seed: int = 0) -> list[np.ndarray]:
    """Make masks of ``count`` overlapping ellipsoids."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    masks = []
    for _ in range(count):
        centre, radii = rng.uniform(0.25, 0.75, 3) * shape, rng.uniform(4, 12, 3)
        masks.append((((grid - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)) ** 2).sum(0) <= 1)
    return masks


def painted(masks: list[np.ndarray]) -> np.ndarray:
    """Make the (X, Y, Z) label map of organs, later ones over earlier ones."""
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for label, mask in enumerate(masks, start=1):
        labels[mask] = label
    return labels
