"""Averages of weights over the steps of a training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import distributed, nn

from modeling_unet.files import write_atomically


class ExponentialMovingAverage:
    """Shadow of a model's floating-point state, ϑ' ← d·ϑ' + (1 - d)·ϑ after each step (Polyak and Juditsky 1992).

    With d = 0 the shadow is the model itself.

    Args:
        decay: d, in [0, 1).
        warm_up: the decay starts lower, as min(d, (1 + n) / (10 + n)) at step n, so that the first weights, often
            random, soon count for little: the averaged weights are n / 10 steps old until d is reached (0.998 at step
            4,490). Without it, the first weights keep a share of dⁿ: in fine-tuning, more of what they knew is kept
            (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3).
    """

    def __init__(self, model: nn.Module, decay: float, warm_up: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}; it must be in [0, 1).")
        self.decay = decay
        self.warm_up = warm_up
        self.steps = 0
        self.shadow = {name: tensor.clone() for name, tensor in self._floats(model).items()}

    @staticmethod
    def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warm_up else self.decay
        self.steps += 1
        torch._foreach_lerp_(list(self.shadow.values()), list(self._floats(model).values()), 1 - decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the averaged weights, afterwards its own again."""
        own = {name: tensor.clone() for name, tensor in self._floats(model).items()}
        model.load_state_dict(self.shadow, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)

    def synchronize(self) -> None:
        """Take the first process's average: batch statistics differ between processes, and one model is evaluated."""
        if distributed.is_initialized():
            for tensor in self.shadow.values():
                distributed.broadcast(tensor, src=0)

    def save(self, path: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.shadow.items()}
        write_atomically(path, safetensors.torch.save(tensors, {"steps": str(self.steps)}))

    def load(self, path: Path) -> None:
        with safetensors.safe_open(path, framework="pt") as file:
            self.steps = int(file.metadata()["steps"])
            for name, tensor in self.shadow.items():
                tensor.copy_(file.get_tensor(name))
