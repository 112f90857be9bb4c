"""Label ensembles: many random templates in one volume (Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.bank.balance import draw_balanced
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.checks import check_choice, check_range
from pretraining.common.random import integer, integers
from pretraining.common.triple import triple
from pretraining.engine.affine import AffineConfig, about, sample_affine
from pretraining.engine.bending import Bend, BendConfig, Curves, bend_curves, sample_bend
from pretraining.engine.foreground import Foreground, ForegroundConfig, apply_foreground, sample_foreground
from pretraining.engine.median import median_3x3x3
from pretraining.engine.placement import Placement, paste_templates, place
from pretraining.engine.resident import load_packed

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """How label ensembles are made (App. B.1.1)."""

    template_count: tuple[int, int] = (20, 40)
    """Range of the number of templates, both ends included; each is one label."""
    draw: Literal["uniform", "balanced"] = "uniform"
    """``uniform``: each template of the bank is equally likely, as published. ``balanced``: a
    region of the body is drawn first, then a kind of organ, then a template of it, so that a source
    with many subjects does not fill all samples.
    """
    affine: AffineConfig = field(default_factory=AffineConfig)
    """Random map of each template."""
    bend: BendConfig = field(default_factory=BendConfig)
    """Smooth random deformation of each template; none by default, as published."""
    placement: Literal["published", "paper"] = "published"
    """``published``: the map acts about voxel (0, 0, 0) and the padded template repeats
    periodically. ``paper``: the template is centre-cropped or padded to the volume, the map acts
    about the centre, and outside is nothing (Algorithm 1 read literally).
    """
    median: bool = True
    """Whether the labels are median filtered, 3x3x3."""
    foreground: ForegroundConfig = field(default_factory=ForegroundConfig)
    """Foreground mask and envelope."""

    def __post_init__(self) -> None:
        check_range("[1, 250]", template_count=self.template_count)  # labels are 8-bit
        check_choice(("uniform", "balanced"), draw=self.draw)
        check_choice(("published", "paper"), placement=self.placement)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """One draw of a label ensemble."""

    shape: Shape
    """Of the volume, voxels."""
    templates: tuple[int, ...]
    """Indices into the bank, in the order of drawing; a template may come twice."""
    affines: tuple[np.ndarray, ...]
    """One (3, 4) map per template, see :func:`pretraining.engine.affine.sample_affine`."""
    placement: Literal["published", "paper"]
    median: bool
    foreground: Foreground | None
    bends: tuple[Bend | None, ...]
    """Deformation of each template."""

    @property
    def label_count(self) -> int:
        """Labels lie in 0..label_count - 1; known without looking at a voxel."""
        return (
            1
            + len(self.templates)
            + (self.foreground is not None)
            + (self.foreground is not None and self.foreground.envelope_radius_vox is not None)
        )


def sample_ensemble(config: EnsembleConfig, shape: Shape, bank: TemplateBank, generator: Generator) -> Ensemble:
    """Draw which templates come where, and the foreground mask.

    Args:
        config: Ranges and probabilities.
        shape: (X, Y, Z) of the volume, voxels.
        bank: Templates to choose from; no mask is read.
        generator: Sole source of randomness.

    Returns:
        All that :func:`render_ensemble` needs beside the bank.
    """
    count = integer(*config.template_count, generator)
    if config.draw == "balanced":
        templates = draw_balanced(bank.regions, count, generator)
    else:
        templates = tuple(integers(count, 0, len(bank) - 1, generator))
    return Ensemble(
        shape=shape,
        templates=templates,
        affines=tuple(sample_affine(config.affine, generator) for _ in range(count)),
        placement=config.placement,
        median=config.median,
        foreground=sample_foreground(config.foreground, shape, generator),
        # Drawn last, so that nothing else changes with it.
        bends=tuple(sample_bend(config.bend, generator) for _ in range(count)),
    )


def render_ensemble(params: Ensemble, bank: TemplateBank, device: torch.device | str = "cpu") -> Tensor:
    """Make the label volume.

    Args:
        params: From :func:`sample_ensemble`.
        bank: Where its templates are.

    Returns:
        (X, Y, Z) uint8: 0 is background. With a foreground mask, 1 is its inside where there is no
        template, and the i-th template, counted from 1, has label i + 1, else i; the envelope comes
        last. Labels that were covered or cut away leave gaps.

    Notes:
        FACTS section 3: the published code counts templates from 0, by which its first one
            vanishes; ours counts from 1.
    """
    labels = torch.zeros(params.shape, dtype=torch.uint8, device=device)
    place_template = PLACEMENTS[params.placement]
    placements = [
        place_template(affine, bank.shape(i), params.shape, bend_curves(bend, params.shape) if bend else None)
        for i, affine, bend in zip(params.templates, params.affines, params.bends, strict=True)
    ]
    paste_templates(labels, load_packed(bank, params.templates, labels.device), placements)
    if params.median:
        labels = median_3x3x3(labels)
    if params.foreground is not None:
        labels = apply_foreground(labels, params.foreground, envelope_label=params.label_count - 1)
    return labels


def place_published(affine: np.ndarray, crop: Shape, shape: Shape, curves: Curves | None = None) -> Placement:
    """Pad the template symmetrically to at least the volume's shape, repeat it periodically, map about voxel (0, 0, 0)."""
    period = triple(max(n, size) for n, size in zip(crop, shape, strict=True))
    offset = triple((p - n) // 2 for p, n in zip(period, crop, strict=True))
    return place(affine, crop=crop, offset=offset, period=period, shape=shape, curves=curves)


def place_paper(affine: np.ndarray, crop: Shape, shape: Shape, curves: Curves | None = None) -> Placement:
    """Centre-crop or pad the template to the volume's shape and map about the centre; nothing re-enters."""
    middle = (np.array(shape) - 1) / 2
    count = triple(min(n, size) for n, size in zip(crop, shape, strict=True))
    first = triple((n - used) // 2 for n, used in zip(crop, count, strict=True))
    offset = triple((size - used) // 2 for size, used in zip(shape, count, strict=True))
    # A period longer than any distance within the mapped volume: the repetition is never seen.
    reach = np.abs(affine[:, :3]) @ np.array(shape) + 2 * np.abs(affine[:, 3]) + np.array(shape)
    if curves is not None:
        reach = reach + 2 * sum(np.abs(curve).max(1) for curve in curves)
    period = triple(2 * int(r) for r in reach)
    placed = about(affine, middle, middle)
    return place(placed, crop=crop, offset=offset, period=period, shape=shape, first=first, count=count, curves=curves)


PLACEMENTS = {"published": place_published, "paper": place_paper}
