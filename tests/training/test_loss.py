"""The loss is the one that the field means."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.training.loss import classification_loss, soft_targets


def test_label_smoothing_is_torchs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 5), torch.randint(0, 5, (6,))
    ours = classification_loss(logits, soft_targets(targets, 5, 0.1))
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, label_smoothing=0.1))


def test_sigmoid_loss_asks_every_class_by_itself() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    one_hot = F.one_hot(targets, 3)
    by_hand = -torch.where(one_hot == 1, logits.sigmoid().log(), (1 - logits.sigmoid()).log()).sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, soft_targets(targets, 3), "sigmoid"), by_hand)


def test_low_precision_logits_are_compared_in_float32() -> None:
    logits = torch.randn(8, 10).bfloat16()
    loss = classification_loss(logits, soft_targets(torch.arange(8), 10))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits.float(), torch.arange(8)).item())
