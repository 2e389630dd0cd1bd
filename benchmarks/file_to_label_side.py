"""A side of file_to_label.py, in a process of its own: labels for the files of a folder, as each library is used."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from turns import Answer, Turn, served

Label = Callable[[str, Sequence[str]], list[str]]
"""A folder and the paths of its files, in order -> the first label of each."""


def prepare(settings: Mapping[str, Any]) -> tuple[Answer, Turn]:
    """Open the model; a turn labels a folder of photographs."""
    start = time.perf_counter()
    label = SIDES[settings["kind"]](settings)
    ready = time.perf_counter() - start

    def turn(request: Mapping[str, Any]) -> Answer:
        folder = request["folder"]
        paths = [str(Path(folder) / name) for name in request["names"]]
        begun = time.perf_counter()
        labels = label(folder, paths)
        return {"seconds": time.perf_counter() - begun, "labels": labels}

    return {"seconds_until_ready": ready}, turn


def of_vitrail(settings: Mapping[str, Any]) -> Label:
    """``Predictor`` on a model folder or an exported one, with its defaults."""
    from vitrail.prediction import Predictor

    predictor = Predictor(settings["model"], engine=settings.get("engine", "auto"))

    def label(folder: str, paths: Sequence[str]) -> list[str]:
        return [str(found.label) for found in predictor.stream(paths)]

    return label


def of_transformers(settings: Mapping[str, Any]) -> Label:
    """``pipeline("image-classification")`` with its defaults, or with batches."""
    from transformers import pipeline

    run = pipeline("image-classification", model=settings["model"])
    batch = settings.get("batch")

    def label(folder: str, paths: Sequence[str]) -> list[str]:
        return [found[0]["label"] for found in run(list(paths), **({} if batch is None else {"batch_size": batch}))]

    return label


def of_timm(settings: Mapping[str, Any]) -> Label:
    """The loop of timm's own inference script, with its defaults: batches of 256, two loading processes."""
    import timm
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config

    model = timm.create_model(f"local-dir:{settings['model']}", pretrained=True).eval()
    data = resolve_data_config({}, model=model)
    names = settings["labels"]

    def label(folder: str, paths: Sequence[str]) -> list[str]:
        dataset = create_dataset("", root=folder)
        loader = create_loader(
            dataset, batch_size=256, use_prefetcher=True, num_workers=2, device=torch.device("cpu"), **data
        )
        indices = []
        with torch.inference_mode():
            for images, _ in loader:
                indices.append(model(images).topk(1)[1])
        found = torch.cat(indices)[:, 0].tolist()
        assert [str(Path(name).name) for name in dataset.filenames(basename=True)] == [
            Path(path).name for path in paths
        ]
        return [names[index] for index in found]

    return label


SIDES: Mapping[str, Callable[[Mapping[str, Any]], Label]] = {
    "vitrail": of_vitrail,
    "transformers": of_transformers,
    "timm": of_timm,
}


if __name__ == "__main__":
    served(prepare)
