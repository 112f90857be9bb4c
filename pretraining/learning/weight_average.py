"""Exponential moving average of the weights (EMA)."""

from __future__ import annotations

from itertools import chain
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(AveragedModel, Generic[Model]):
    """PyTorch's average of weights and buffers, with an update that never waits for the device.

    PyTorch's own update reads the number of earlier updates from the device.

    Args:
        model: Model to average; copied here.
        decay: Share of the old average that an update keeps, in (0, 1).
        state: State dict to continue from, if any.
    """

    module: Model
    n_averaged: Tensor

    def __init__(self, model: Model, *, decay: float, state: dict[str, Tensor] | None = None) -> None:
        average = get_ema_multi_avg_fn(decay)
        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        self._average = average
        if state:
            self.load_state_dict(state)
        self._empty = not bool(self.n_averaged)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add a model's weights and buffers to the average; the first ones are copied."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        for floating in (True, False):
            same_kind = [pair for pair in pairs if pair[0].is_floating_point() == floating]
            if same_kind and self._empty:
                for average, new in same_kind:
                    average.copy_(new)
            elif same_kind:
                averages, news = map(list, zip(*same_kind, strict=True))
                self._average(averages, news, self.n_averaged)
        self.n_averaged += 1
        self._empty = False


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
