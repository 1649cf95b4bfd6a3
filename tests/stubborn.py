"""A small run of networks that die, fail or dawdle at a marked image; as a program, a driver of that run."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from saplab.attacks import FGSM, MonteCarlo, eps_of
from saplab.data.dataset import Dataset
from saplab.defenses import parse_defenses
from saplab.models.identity import weights_digest
from saplab.models.initialise import initialise
from saplab.runs import Curve, ImageCell, Network, Request, Store, cut, run
from saplab.runs.engines import InProcess, RayCluster, Workers
from saplab.runs.images import Images

MARKED = range(20, 25)  # examples
PER_CELL, EXAMPLES = 5, 40


class Stubborn(nn.Sequential):
    """A convolutional network that does `how` to its process, `times` in all, when it sees a marked image.

    Args:
        folder: where it counts, a file each time.
        how: ``die``, or an exception to raise.
        times: after which it is well.
        pause: seconds that each pass takes at least.
    """

    def __init__(self, folder, how="die", times=0, pause=0.0):
        layers = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        super().__init__(*layers)
        self.folder, self.how, self.times, self.pause = Path(folder), how, times, pause

    def forward(self, images):
        time.sleep(self.pause)
        before = len(list(self.folder.glob("*")))
        if bool((images[:, 0, 0, 0] > 0.95).any()) and before < self.times:
            (self.folder / f"{before}").write_text(str(os.getpid()))
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.how
        return super().forward(images)


def make_run(folder, defense="sap:100", **settings):
    """Return the request and the inputs of a run of 16 groups, whose networks count in `folder`.

    Without a defence, a process need not load the kernels, which takes it seconds.
    """
    folder.mkdir(exist_ok=True)
    model = initialise(Stubborn(folder, **settings), 0).eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(0.9 * rng.random((EXAMPLES, 3, 8, 8), np.float32))
    images[MARKED.start : MARKED.stop, 0, 0, 0] = 1.0
    labels = torch.from_numpy(rng.integers(0, 4, EXAMPLES))
    data = Dataset("made up", images, labels, torch.arange(EXAMPLES), tuple("abcd"))
    digest = weights_digest(model)
    network = Network("stubborn", digest, parse_defenses(defense))
    cell = ImageCell(
        defender=network, adversary=network, attack=FGSM(MonteCarlo(2)), eps=(0.0, eps_of(4)), data=data.digest(),
        start=0, stop=EXAMPLES, passes=3,
    )  # fmt: skip
    other = replace(cell, attack=FGSM(MonteCarlo(2, "identity")))
    curves = (Curve("mask", cut(cell, PER_CELL)[0]), Curve("identity", cut(other, PER_CELL)[0]))
    return Request("stubborn", curves), Images({("stubborn", digest): model}, data)


def engine_of(words):
    """Return an engine by name: ``workers 2``, ``ray`` or ``ray ADDRESS``."""
    if words[0] == "workers":
        return Workers(int(words[1]), 1)
    return RayCluster(*words[1:]) if words[0] == "ray" else InProcess()


if __name__ == "__main__":
    from saplab.cli.errors import end_on_interrupt, guarded, leave

    root, pause, *words = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    end_on_interrupt()
    request, inputs = make_run(Path(root) / "trap", "", pause=float(pause))
    store = Store.open(Path(root) / "run", request)
    leave(guarded(lambda: len(run(store, inputs, engine=engine_of(words)))))
