"""What is known of an epoch of training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """What is known of an epoch when it is over.

    Attributes:
        epoch: from 1.
        lr: learning rate of its last step.
        train_loss, train_accuracy: means over the epoch's augmented images, each taken before the step it led to.
        test_accuracy: on the test images after the epoch, in the recipe's own precision; None without test images.
        images_per_second, seconds: of the training alone, and of training and tests.
        busy: share of the training time spent in forward passes, backward passes and steps, those of an adversary
            included; the rest is waiting for batches and measuring.
        held_out_accuracy: on the held-out images; None without any.
        robust_accuracy: on the held-out images under the recipe's check; None without one.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float | None
    images_per_second: float
    seconds: float
    busy: float | None = None
    held_out_accuracy: float | None = None
    robust_accuracy: float | None = None
