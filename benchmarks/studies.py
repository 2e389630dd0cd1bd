"""Runs a minute of `vitrail study` against a plain loop over the same runs, each in a fresh process.

    python benchmarks/studies.py [--rounds 3] [--steps 300]

The runs are those of the study `position` on the built-in digits, two seeds and one learning rate of each arm, at
the given number of steps. The loop calls `vitrail.train` for one run after the other, with torch's own number of threads
(all cores), and once more with one thread, which is faster for such models where threads wait for each other. The study
shares the machine out as it always does. Time is from the start of the process to its end, imports and the study's table,
figure and page included. The order is swapped every round. Writes benchmarks/results/studies.json and
docs/benchmarks/studies.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
WAYS = {
    "study": "`vitrail study`, one run a core, one thread each",
    "loop": "a loop over `vitrail.train`, threads on all cores",
    "loop, one thread": "a loop over `vitrail.train`, one thread",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)  # a round's process
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one, steps=arguments.steps)
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
            seconds[way].append(in_a_process(way, arguments.steps))
            print(f"{way}: {runs() / seconds[way][-1] * 60:.1f} runs a minute")
    write(seconds, arguments.steps)


def in_a_process(way: str, steps: int) -> float:
    """Seconds that a process takes for all runs."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {"VITRAIL_DEVICE": "cpu"} | ({"OMP_NUM_THREADS": "1"} if way == "loop, one thread" else {})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--steps", str(steps), "--one", way, folder]
        subprocess.run(command, check=True, env=environment)
        return time.perf_counter() - start


def one(way: str, folder: str, steps: int) -> None:
    """All runs in one way, in this process, which has done nothing else."""
    from vitrail.studies import files

    study = files.load("position")
    study = study.model_copy(update={"lr": (2e-3,), "seeds": 2, "sweep_seeds": None})
    changes = {"steps": steps}
    if way == "study":
        from vitrail.studies.run import study as run

        run(study, out=Path(folder) / "study", changes=changes)
        return
    import vitrail
    from vitrail.recipes import files as recipes
    from vitrail.studies.plan import make_plan
    from vitrail.studies.schedule import Schedule

    schedule = Schedule(make_plan(study, "digits", changes=changes), Path(folder))
    for job in iter(schedule.next_job, None):
        vitrail.train(recipes.from_dict(job.recipe), out=job.folder, quiet=True)


def runs() -> int:
    """How many runs there are."""
    from vitrail.studies import files

    return 2 * len(files.load("position").arms)


def write(seconds: dict[str, list[float]], steps: int) -> None:
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "studies.json").write_text(json.dumps({"steps": steps, "runs": runs(), "seconds": seconds}, indent=1))
    lines = [
        "# Runs of a study side by side",
        "",
        "`python benchmarks/studies.py` measures it; this page is its output.",
        "",
        f"The {runs()} runs of the study `position` on the built-in digits at {steps} steps (two seeds, one learning rate), "
        "each way in a fresh process, imports and the study's page included; "
        f"median of {len(next(iter(seconds.values())))} alternating rounds.",
        "",
        "| way | runs a minute | range | against the loop |",
        "|---|---|---|---|",
    ]
    for way, text in WAYS.items():
        rates = sorted(60 * runs() / second for second in seconds[way])
        lines.append(
            f"| {text} | {60 * runs() / medians[way]:.1f} | {rates[0]:.1f} to {rates[-1]:.1f} "
            f"| {medians['loop'] / medians[way]:.2f} |"
        )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "vitrail"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines += ["", f"Measured on {machine}, {versions}.", ""]
    (ROOT / "docs" / "benchmarks" / "studies.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
