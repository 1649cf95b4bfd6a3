"""Agents trained elsewhere: zips of Stable-Baselines3 and state_dicts, damaged and with code in them."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from fuzz.cases import Canary, Case, call, generator
from saplab.models.qnetwork import new_network
from saplab.rl.formats import read_agent

_NAMES = {
    "conv1": "q_net.features_extractor.cnn.0", "conv2": "q_net.features_extractor.cnn.2",
    "conv3": "q_net.features_extractor.cnn.4", "hidden": "q_net.features_extractor.linear.0", "head": "q_net.q_net.0",
}  # fmt: skip


@generator
def zips_of_agents(draw: random.Random, folder: Path) -> Case:
    """A zip of Stable-Baselines3, whole, with one tensor changed, damaged, or with code: refused, or its weights."""
    state = new_network(4, draw.randrange(9)).state_dict()
    online: dict[str, Any] = {f"{_NAMES[n.partition('.')[0]]}.{n.partition('.')[2]}": t for n, t in state.items()}
    target = {name.replace("q_net.", "q_net_target.", 1): tensor + 1 for name, tensor in online.items()}
    kind, right = draw.choice((("whole", 0), ("half", 0), ("complex", 2), ("nan", 2), ("code", 2), ("damaged", 2)))
    name = draw.choice(sorted(online))
    changes: dict[str, Any] = {
        "complex": online[name] + 1j, "nan": online[name] * torch.nan, "code": Canary(folder),
        "half": online[name].half(),
    }  # fmt: skip
    online |= {name: changes[kind]} if kind in changes else {}
    inner, file = io.BytesIO(), folder / "agent.zip"
    torch.save({**online, **target}, inner)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("policy.pth", inner.getvalue())
    if kind == "damaged":
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content) // 2)] ^= 1 << draw.randrange(8)
        file.write_bytes(content)

    def run() -> None:
        own = read_agent(file).state_dict()
        assert kind in ("whole", "half", "damaged")
        assert all(
            torch.equal(own[n], t)
            for n, t in state.items()
            if kind == "whole" or _NAMES[n.partition(".")[0]] not in name
        )

    return call(f"{kind} {name}", run, {right} if kind != "damaged" else {0, 2})
