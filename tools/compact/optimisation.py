"""What every stage of the training does: steps of AdamW on one or several GPUs until a time, resumably."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

WARM_UP_STEPS = 300
CHECKPOINT_SECONDS = 120.0
STEPS_BETWEEN = 20
"""Steps after which the clock is read, together with the other ranks."""
WEIGHT_DECAY = 0.01
"""Of matrices and kernels; biases and scales of norms have none."""


@dataclass
class Run:
    """What all stages share. This process does the share `rank` of `ranks` of the work. out: what is given
    back; work: a fast local folder for data and state; ends: when training must stop, by time.monotonic."""

    out: Path
    work: Path
    device: torch.device
    rank: int = 0
    ranks: int = 1
    ends: float = math.inf
    began: float = field(default_factory=time.monotonic)

    @property
    def first(self) -> bool:
        """Whether this rank writes what there is once."""
        return self.rank == 0

    def say(self, text: str) -> None:
        if self.first:
            print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def agree(self, mine: bool) -> bool:
        """Whether any rank says so: all ranks then go the same way."""
        return bool(self.mean(torch.tensor(float(mine), device=self.device)) > 0)

    def over(self, deadline: float) -> bool:
        """Whether `deadline` or the end of the run has come, for any rank."""
        return self.agree(time.monotonic() > min(deadline, self.ends))

    def barrier(self) -> None:
        if self.ranks > 1:
            dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """`values` averaged over the ranks, in place."""
        if self.ranks > 1:
            dist.all_reduce(values)
            values /= self.ranks
        return values

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        if self.ranks == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in grads]))
        torch._foreach_copy_(
            grads, [x.view_as(g) for x, g in zip(flat.split([g.numel() for g in grads]), grads)]
        )


def save_atomically(value: Any, path: Path) -> None:
    """torch.save, such that `path` is at any time a whole file or none."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    os.replace(temporary, path)


class Trainer:
    """AdamW with warm-up, cosine decay and clipping, and a moving average (EMA) of the weights.

    The learning rate follows the share of `seconds` that has passed, over all processes that went on with the
    state in `path`. Not the number of steps: a machine's time is what is given. slow: parameters that learn
    at 0.2 of the rate, such as those of a network that is trained already.
    """

    def __init__(
        self,
        run: Run,
        module: nn.Module,
        path: Path,
        *,
        rate: float,
        seconds: float,
        slow: tuple[nn.Parameter, ...] = (),
        ema: float = 0.9995,
        warm_up: int = WARM_UP_STEPS,
    ) -> None:
        self.run, self.path, self.rate, self.seconds, self.decay = run, path, rate, seconds, ema
        self.warm_up = warm_up
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        late = {id(p) for p in slow}
        groups = []
        for factor in (1.0, 0.2):
            for decay in (WEIGHT_DECAY, 0.0):
                group = [
                    p
                    for p in self.parameters
                    if (0.2 if id(p) in late else 1.0) == factor and (p.ndim > 1) == (decay > 0)
                ]
                groups.append({"params": group, "weight_decay": decay, "factor": factor})
        groups = [group for group in groups if group["params"]]
        fused = run.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=fused)
        self.ema = [p.detach().clone() for p in self.parameters]
        self.steps, self.spent, self.smooth = 0, 0.0, 0.0
        if path.exists():
            self._load(torch.load(path, map_location=run.device, weights_only=True))
        if run.ranks > 1:  # all start alike
            for p in self.parameters:
                dist.broadcast(p.data, 0)
        # Not the random numbers that an earlier process has drawn.
        torch.manual_seed(run.rank + run.ranks * (self.steps + 1))
        self.clock = time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.clock

    def train(
        self, loss: Callable[[], Tensor], between: Callable[[], None], keep: Callable[[], None]
    ) -> bool:
        """Steps until `seconds` or the end of the run; returns whether `seconds` have passed.

        between: called every `STEPS_BETWEEN` steps. keep: called on the first rank, with the averaged weights
        in the module, whenever the state has been written: every two minutes and at the end.
        """
        deadline = self.clock + self.seconds - self.spent
        saved = time.monotonic()
        while not self.run.over(deadline):
            for _ in range(STEPS_BETWEEN):
                self.step(loss())
            between()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save(keep)
                saved = time.monotonic()
        self._save(keep)
        return self.run.agree(self.elapsed >= self.seconds - 2)

    def step(self, loss: Tensor) -> None:
        loss.backward()
        self.run.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        share = min(1.0, self.elapsed / max(self.seconds, 1e-6))
        rate = (
            self.rate
            * min(1, (self.steps + 1) / self.warm_up)
            * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.decay, (self.steps + 1) / (self.steps + 20))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self.steps += 1
        if self.steps % 100 == 0 or self.steps in (1, 10):
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {self.steps}")
            self.smooth = value if self.steps <= 10 else 0.7 * self.smooth + 0.3 * value
            if self.steps % 500 == 0 or self.steps <= 100:
                self.run.say(
                    f"  step {self.steps}, {self.elapsed:.0f} of {self.seconds:.0f} s, loss {self.smooth:.4f}"
                )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the module, for the time of the `with` statement."""
        kept = [p.detach().clone() for p in self.parameters]
        self.finish()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

    def finish(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.ema)

    def _save(self, keep: Callable[[], None]) -> None:
        if not self.run.first:
            return
        if not all(bool(x.isfinite().all()) for x in self.ema):
            raise FloatingPointError(f"weights are not finite at step {self.steps}: the state before is kept")
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "steps": self.steps,
            "spent": self.elapsed,
            "smooth": self.smooth,
        }
        save_atomically(state, self.path)
        with self.averaged():
            keep()

    def _load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, state["parameters"])
            torch._foreach_copy_(self.ema, state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.spent, self.smooth = (state[name] for name in ("steps", "spent", "smooth"))
