"""Numbers that go wrong inside a training process, at steps that are named. Nothing of it is in the product."""

from dataclasses import dataclass
from typing import Any

KINDS = ("nan", "inf", "gradient", "weight", "spike")


@dataclass(frozen=True)
class Poison:
    """What goes wrong, and when."""

    kind: str
    """nan, inf: that is the loss; gradient: the loss is finite and its gradient is not; weight: one is NaN after the
    step; spike: the loss is a million times what it was."""
    steps: tuple[int, ...]
    """From 0."""

    def install(self) -> None:
        """In the process that trains, and before it does."""
        import vitrail.training.step as of_step

        take, loss_of = of_step.TrainStep.__call__, of_step.classification_loss
        now = -1

        def step_taken(self_: Any, step: int, batch: Any) -> Any:
            nonlocal now
            now = step
            result = take(self_, step, batch)
            if self.kind == "weight" and step in self.steps:
                next(self_.model.parameters()).data.view(-1)[0] = float("nan")
            return result

        def loss_told(*args: Any, **more: Any) -> Any:
            loss = loss_of(*args, **more)
            if now not in self.steps or self.kind == "weight":
                return loss
            if self.kind == "gradient":
                loss.register_hook(lambda gradient: gradient * float("inf"))
                return loss
            return loss * {"nan": float("nan"), "inf": float("inf"), "spike": 1e6}[self.kind]

        setattr(of_step.TrainStep, "__call__", step_taken)  # noqa: B010, as no method is assigned to
        setattr(of_step, "classification_loss", loss_told)  # noqa: B010
