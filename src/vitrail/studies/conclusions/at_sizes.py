"""The points of a study of sizes, looked up by arm, size and stage; which arms read the models of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vitrail.studies.findings import Point, SizePoint
from vitrail.studies.study import Study

Pixels = tuple[int, int]


@dataclass(frozen=True)
class AtSizes:
    """What was found at each size of the images; a stage is ``tuned`` or, as trained, not."""

    study: Study
    tried: Sequence[Point]
    """The training runs, at the base size."""
    points: Sequence[SizePoint]
    """At least one."""

    @cached_property
    def sizes(self) -> list[Pixels]:
        """Every size, rising."""
        scale = {point.image_size: point.scale for point in self.points}
        return sorted(scale, key=lambda size: (size[0] * size[1], scale[size]))

    @cached_property
    def base(self) -> Pixels:
        """The size of the training."""
        return min(self.points, key=lambda point: abs(point.scale - 1)).image_size

    @property
    def others(self) -> list[Pixels]:
        """Every size but that of the training."""
        return [size for size in self.sizes if size != self.base]

    @cached_property
    def arms(self) -> list[str]:
        """The arms that have points, in the study's order."""
        found = {point.arm for point in self.points}
        return [arm for arm in dict.fromkeys([*self.study.arms, *(p.arm for p in self.points)]) if arm in found]

    @cached_property
    def readings(self) -> list[str]:
        """Arms that are another's trained models, brought to a size in another way and compared with that other."""
        return [arm for arm in self.arms if self.study.arms[arm].of == self.study.opponent(arm)]

    @property
    def kinds(self) -> list[str]:
        """All other arms."""
        return [arm for arm in self.arms if arm not in self.readings]

    def at(self, arm: str, size: Pixels, tuned: bool) -> SizePoint | None:
        """One point, if it was run."""
        return self._by_place.get((arm, size, tuned))

    def row(self, arm: str, tuned: bool) -> list[SizePoint]:
        """An arm's points of one stage, sizes rising."""
        return [point for size in self.sizes if (point := self.at(arm, size, tuned))]

    def diverged(self, arm: str) -> tuple[int, int]:
        """How many of the arm's runs diverged, of how many; those of the arm that it reads, if it does."""
        trained = self.study.arms[arm].of or arm
        point = next((point for point in self.tried if point.chosen and point.arm == trained), None)
        return (point.diverged, point.seeds) if point else (0, 0)

    @cached_property
    def sound(self) -> list[str]:
        """The arms none of whose runs diverged: only their numbers tell of sizes."""
        return [arm for arm in self.arms if not self.diverged(arm)[0] and self.at(arm, self.base, False)]

    @cached_property
    def _by_place(self) -> dict[tuple[str, Pixels, bool], SizePoint]:
        return {(point.arm, point.image_size, point.tuned): point for point in self.points}


def text(size: Pixels) -> str:
    """``16 × 16``."""
    return f"{size[0]} × {size[1]}"
