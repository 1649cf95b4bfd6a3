"""An annotated clip of one game: what the agent saw, what the adversary added, the agent's values and its action."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from saplab.rl.atari import INSTALL
from saplab.rl.play import Moment

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_ZOOM: Final = 3
_SIDE: Final = 84 * _ZOOM
_MARGIN, _HEADER, _BARS = 10, 34, 250
_MILLISECONDS: Final = 67  # a step is four frames of a sixtieth of a second
_INK, _FAINT, _CHOSEN = (20, 20, 20), (170, 180, 190), (200, 60, 30)


def check_clip(path: Path) -> None:
    """Refuse a path at which no clip can be written."""
    if path.suffix != ".gif":
        raise ValueError(f"`video` must end in .gif, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "there is no such folder for `video`", str(path.parent))


class Clip:
    """Records the first steps of an episode: `watch` gets every moment, `save` writes a GIF. Needs Pillow.

    Args:
        title: first line of the clip, in ASCII: Pillow's own font has no other characters.
        actions: names of the game's actions, in the order of their numbers.
        lam: the adversary's λ in pixel steps; decides how much the perturbation is enlarged.
        episode: number of the episode to record.
        steps: how many to record at most.
    """

    def __init__(self, title: str, actions: Sequence[str], lam: float, episode: int = 0, steps: int = 300) -> None:
        if steps < 1:
            raise ValueError(f"`steps` must be >= 1, got {steps}")
        try:
            from PIL import Image, ImageDraw
        except ImportError:
            raise ValueError(f"a clip needs Pillow; install it: {INSTALL}") from None
        self._images: Any = Image
        self._drawing: Any = ImageDraw
        self._title, self._actions, self._episode, self._most = title, actions, episode, steps
        self._gain = max(1, int(120 / lam)) if lam else 0
        self.frames: list[Image.Image] = []

    def watch(self, moment: Moment) -> None:
        """Draw a moment of the episode, if it is still being played."""
        if self._episode in moment.episodes and len(self.frames) < self._most:
            self.frames.append(self._drawn(moment, moment.episodes.index(self._episode)))

    def save(self, path: Path) -> None:
        """Write the clip as a GIF; ValueError if nothing was recorded."""
        check_clip(path)
        if not self.frames:
            raise ValueError(f"there is nothing to save in {path}: episode {self._episode} was not played")
        first, *others = (frame.quantize(64) for frame in self.frames)
        first.save(path, save_all=True, append_images=others, duration=_MILLISECONDS, loop=0)

    def _drawn(self, moment: Moment, row: int) -> "Image.Image":
        seen, shown = moment.seen[row, -1].cpu(), moment.stacks[row, -1].cpu()
        width = 2 * _SIDE + _BARS + 4 * _MARGIN
        picture: Image.Image = self._images.new("RGB", (width, _HEADER + _SIDE + 3 * _MARGIN), "white")
        draw = self._drawing.Draw(picture)
        action = self._actions[int(moment.actions[row])]
        state = f"step {len(self.frames)}, {moment.scores[row]:g} points, action {action}"
        draw.text((_MARGIN, 4), f"{self._title}: {state}", _INK)
        labels = ("what the agent sees", f"perturbation, {self._gain} times" if self._gain else "no perturbation")
        panels = (seen.numpy() * 255, 128 + (seen - shown).numpy() * 255 * self._gain)
        for column, (label, pixels) in enumerate(zip(labels, panels, strict=True)):
            left = _MARGIN + column * (_SIDE + _MARGIN)
            draw.text((left, _HEADER - 14), label, _INK)
            gray = np.clip(np.rint(pixels), 0, 255).astype(np.uint8).repeat(_ZOOM, 0).repeat(_ZOOM, 1)
            picture.paste(self._images.fromarray(gray), (left, _HEADER))
        draw.text((2 * _SIDE + 3 * _MARGIN, _HEADER - 14), "value of each action", _INK)
        self._draw_values(draw, moment.values[row].cpu().numpy(), int(moment.actions[row]))
        return picture

    def _draw_values(self, draw: "ImageDraw.ImageDraw", values: NDArray[np.float32], action: int) -> None:
        """Draw a bar for each action, from the shortest for the least value to the longest for the greatest."""
        left, height = 2 * _SIDE + 3 * _MARGIN, _SIDE / max(len(values), 8)
        spread = float(values.max() - values.min()) or 1.0
        for number, value in enumerate(values):
            top = _HEADER + number * height
            length = 10 + 60 * float(value - values.min()) / spread
            colour = _CHOSEN if number == action else _FAINT
            draw.rectangle((left + 115, top + 2, left + 115 + length, top + height - 2), colour)
            draw.text((left, top + height / 2 - 6), self._actions[number], _INK)
            draw.text((left + 122 + length, top + height / 2 - 6), f"{value:.3f}", _INK)
