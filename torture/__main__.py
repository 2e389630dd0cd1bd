"""Run the ordeals, print the counts, and say by the exit code whether all are complete and nothing is lost.

    python -m torture [--short] [--only NAME ...] [--seed N] [--json FILE]

Every number that is drawn follows from the seed, so an ordeal that failed is repeated by its name and the seed.
"""

import argparse
import importlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from torture.processes import end_all
from torture.trial import Count, OutOfTime, Trial

# Seconds that an ordeal may take, in full and in short, and what those before it have left of theirs. The sums are an
# hour and four minutes.
LIMITS = {
    "order": (100, 6),
    "kill": (900, 48),
    "checkpoint": (150, 14),
    "disk": (180, 17),
    "damage": (120, 13),
    "saves": (60, 6),
    "predictions": (200, 14),
    "batch-kills": (320, 25),
    "data": (420, 37),
    "numbers": (260, 14),
    "worlds": (450, 22),
    "ranks": (440, 24),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every count is complete and nothing is lost."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="smaller counts, in four minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=LIMITS, metavar="NAME", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--seed", type=int, help="of all that is drawn; without it a new one, which is printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here too")
    parser.add_argument("--patience", type=float, default=1, metavar="N", help="times the usual limits of time")
    parser.add_argument("--keep", action="store_true", help="keep what the ordeals wrote, to look at")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    print(f"torture, {'short' if options.short else 'full'}, seed {seed}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="vitrail-torture-"))
    results: list[tuple[Count, float]] = []
    spare = 0.0
    try:
        for name in options.only or LIMITS:
            trial = _undergo(name, seed, work, options.patience * LIMITS[name][options.short] + spare, options.short)
            seconds = trial.seconds
            spare = max(trial.limit - seconds, 0)
            results += [(count, seconds) for count in trial.counts]
    finally:
        if options.keep:
            print(f"what they wrote is in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    whole = bool(results) and all(count.complete for count, _ in results)
    _print(results, whole)
    if options.json is not None:
        options.json.write_text(json.dumps(_document(results, seed, options.short, whole), indent=1) + "\n", "utf-8")
    return 0 if whole else 1


def _undergo(name: str, seed: int, work: Path, limit: float, short: bool) -> Trial:
    """One ordeal; what stops it is a loss of its last count."""
    folder, shared = work / name, work / "shared"
    for path in (folder, shared):
        path.mkdir(exist_ok=True)
    trial = Trial(name, seed, folder, shared, limit, short)
    module = name.replace("-", "_")
    print(f"{name} ...", end=" ", flush=True)
    previous = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, trial.limit + 30)  # where something waits without asking for the time
    try:
        getattr(importlib.import_module(f"torture.{module}"), module)(trial)
    except Exception as error:
        if not trial.counts:
            trial.count("preparation", 1)
        if isinstance(error, OutOfTime):
            _note(f"{error}")
        else:
            traceback.print_exc()
            trial.counts[-1].losses.append(f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        end_all()
    print(f"{trial.seconds:.0f} s", flush=True)
    for count in trial.counts:
        for loss in dict.fromkeys(count.losses):
            _note(f"{count.what}: {loss}")
    return trial


def _ring(number: int, frame: FrameType | None) -> None:
    raise OutOfTime("the time of the ordeal is over")


def _note(text: str) -> None:
    print(f"  lost: {text}", flush=True)


def _print(results: list[tuple[Count, float]], whole: bool) -> None:
    width = max((len(count.what) for count, _ in results), default=0)
    print(f"\n{'ordeal':<12} {'':<{width}} {'wanted':>7} {'tried':>7} {'survived':>9} {'lost':>5} {'seconds':>8}")
    before = ""
    for count, seconds in results:
        first = count.ordeal != before
        before = count.ordeal
        numbers = f"{count.wanted:>7,} {count.tried:>7,} {count.survived:>9,} {len(count.losses):>5,}"
        time_used = f"{seconds:>8.0f}" if first else " " * 8
        end = "" if count.complete else f"  {count.survived} of {count.wanted}"
        print(f"{count.ordeal if first else '':<12} {count.what:<{width}} {numbers} {time_used}{end}")
    print("every count complete, nothing lost" if whole else "NOT complete")


def _document(results: list[tuple[Count, float]], seed: int, short: bool, whole: bool) -> dict[str, object]:
    rows = [
        {
            "ordeal": count.ordeal,
            "what": count.what,
            "wanted": count.wanted,
            "tried": count.tried,
            "survived": count.survived,
            "lost": len(count.losses),
            "losses": count.losses,
            "seconds of the ordeal": round(seconds, 1),
        }
        for count, seconds in results
    ]
    return {
        "form": "short" if short else "full",
        "seed": seed,
        "complete": whole,
        "date": time.strftime("%Y-%m-%d"),
        "counts": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
