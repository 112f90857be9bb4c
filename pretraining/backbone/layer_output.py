"""Output of a named layer of any network, and its first trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pretraining.common.errors import InputError


class LayerOutput:
    """Function that runs a network and returns the output of one of its layers.

    Args:
        net: Network.
        layer: Name of the submodule. Default: the network itself.
        network: Name of the network for messages.

    Raises:
        InputError: If the network has no such layer.
    """

    def __init__(self, net: nn.Module, layer: str | None, network: str) -> None:
        self._net, self._network = net, network
        self._outputs: list[Any] | None = None
        if layer is None:
            return
        try:
            module = net.get_submodule(layer)
        except AttributeError:
            names = [name for name, _ in net.named_modules() if name]
            raise InputError(
                f"{network} has no layer '{layer}', found {names[:12]} "
                f"and {max(0, len(names) - 12)} more; correct 'layer'"
            ) from None
        outputs = self._outputs = []
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: (B, C, X, Y, Z), input of the network.

        Returns:
            (B, channels, X', Y', Z'), the finest output if there are several.

        Raises:
            InputError: If the output has another number of axes or another batch size.
        """
        if self._outputs is None:
            output = self._net(x)
        else:
            self._outputs.clear()
            self._net(x)
            output = self._outputs.pop()
        while isinstance(output, (tuple, list)) and output:
            output = output[0]  # with deep supervision, the finest output is the first
        if not isinstance(output, Tensor) or output.ndim != 5 or len(output) != len(x):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"{self._network}: expected features (B, C, X, Y, Z), found {found}; choose another layer")
        return output


@contextmanager
def trial_run(network: str, side: int, keys: str) -> Iterator[None]:
    """Report a failure of a network on its first input in one line.

    Args:
        network: Name of the network.
        side: Side of the input, a cube, voxels.
        keys: Keys of the description to correct.

    Raises:
        InputError: If the network fails.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{network} fails on a cube of {side} voxels ({reason}); correct {keys}") from None
