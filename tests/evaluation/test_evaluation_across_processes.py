"""Several processes share the images of an evaluation, and each ends with the logits of all."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from small_examples import make_folder, make_model

from vitrail.data.open import open_data
from vitrail.evaluation.run import infer, predict_logits

WORLD = 2


def in_each_process(rank, folder, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=WORLD)
    samples = open_data(folder, val_fraction=0).train.subset(range(11))
    model, done = make_model(), []
    logits, targets = predict_logits(model, samples, batch_size=2, progress=lambda *at: done.append(at))
    single = infer(model, samples.subset([4]))  # the second process has no image at all
    torch.save({"logits": logits, "targets": targets, "single": single, "done": done[-1]}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    folder = make_folder(tmp_path / "images")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(in_each_process, (str(folder), str(tmp_path)), nprocs=WORLD)
    samples = open_data(folder, val_fraction=0).train.subset(range(11))
    logits, targets = predict_logits(make_model(), samples, batch_size=2)
    for rank, share in ((0, 6), (1, 5)):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(found["logits"], logits, atol=1e-5)  # the batches hold other images
        assert torch.equal(found["targets"], targets)
        assert torch.allclose(found["single"], logits[4:5], atol=1e-5)
        assert found["done"] == (share, share)
