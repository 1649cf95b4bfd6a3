"""What a pass costs under each defence, against the undefended network in the same run: medians over rounds.

python benchmarks/defenses.py [--images 512] [--rounds 7] [--json PATH]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import saplab
from saplab.runs.machine import processor, versions
from saplab.studies.specs import parse_defenses

DEFENSES = ("sap:100", "dropout:0.1", "rna:0.01", "rsa:0.1", "rnw:0.01", "rsw:0.1", "dwp:50", "swp:100")


def main() -> None:
    """Time interleaved rounds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    net = saplab.load_model("preact-resnet20-dense")
    images = saplab.load_cifar10("sample")[0][: options.images]
    networks = {"dense": net, **{text: saplab.defend(net, *parse_defenses(text)) for text in DEFENSES}}
    times = measure(networks, images, options.rounds)
    dense = statistics.median(times["dense"])
    rows = {name: {"seconds": statistics.median(t), "ratio": statistics.median(t) / dense} for name, t in times.items()}
    print(f"one pass over {len(images)} images of preact-resnet20, float32")
    print(f"{torch.get_num_threads()} threads, {processor()}")
    for name, row in rows.items():
        spread = (max(times[name]) - min(times[name])) / dense
        print(f"{name:12} {row['seconds'] * 1000:8.0f} ms  {row['ratio']:5.2f} x dense  (spread {spread:.2f})")
    if options.json:
        result = {"rows": rows, "images": len(images), "machine": processor(), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1))


@torch.no_grad()
def measure(networks: dict[str, torch.nn.Module], images: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Time each network once a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds + 1):
        for name, network in networks.items():
            begin = time.perf_counter()
            network(images)
            times[name].append(time.perf_counter() - begin)
    return {name: seconds[1:] for name, seconds in times.items()}


if __name__ == "__main__":
    main()
