"""Sums over the steps of an epoch."""

import torch
from torch import Tensor

from saplab.training.place import Place


class Totals:
    """Loss and correct answers of the images seen so far, kept on the device that counts them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sums = torch.zeros(2, dtype=torch.float64, device=place.device)
        self._seen = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits (B, classes) and its labels (B,)."""
        right = (logits.detach().argmax(dim=1) == labels).sum()
        self._sums += torch.stack((loss.detach().double() * len(labels), right.double()))
        self._seen += len(labels)

    def means(self) -> tuple[float, float]:
        """Return mean loss and accuracy of this process's images."""
        loss, accuracy = (self._sums / self._seen).tolist()
        return loss, accuracy

    def of_all(self) -> tuple[float, float]:
        """Return mean loss and accuracy of all processes' images."""
        sums = self._place.total(self._sums.clone()) / (self._seen * self._place.world)
        loss, accuracy = sums.tolist()
        return loss, accuracy
