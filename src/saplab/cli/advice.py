"""How to run what a check is missing, in options of the command line."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saplab.evaluation.advice import Advice


def in_options(advice: "Advice") -> str:
    """Return advice as options: ``--attack adaptive --lambda 1,2,4,8``."""
    from saplab.attacks import strength_of

    steps = advice.threat.in_steps
    radii = ",".join(f"{strength_of(radius):g}" if steps else f"{radius:.4g}" for radius in advice.eps)
    parts = (
        f"--attack {shlex.quote(advice.attack)}" if advice.attack else "",
        f"--{'lambda' if steps else 'eps'} {radii}" if radii else "",
        f"more images, by a larger --limit: {advice.more_than} were too few" if advice.more_than else "",
        "--baseline (the undefended network beside the defended one)" if advice.baseline else "",
    )
    return " ".join(filter(None, parts))
