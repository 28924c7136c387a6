"""Small PNG pictures of an episode as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

from rmt_rl.envs.base import Obs, TorchVectorEnv

#: (width, height) of a picture in pixels, its dots per inch (text stays legible on a phone), and the colors in its palette.
SIZE, DPI, COLORS = (520, 360), 120, 64
#: Bytes of all pictures of a page; they are drawn smaller where there are more.
MOST_BYTES = 1_700_000


class Frames:
    """Draws row 0 of an environment at each call; equal pictures are kept once."""

    def __init__(self, env: TorchVectorEnv) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._env = env
        self._figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(self._figure)
        self._pictures: list[Any] = []
        self._known: dict[bytes, int] = {}
        #: The number of the picture of each step.
        self.order: list[int] = []

    def add(self, obs: Obs) -> None:
        """Draw the environment. obs: its latest observation."""
        from PIL import Image

        from rmt_rl.envs.drawing import draw

        self._figure.clear()
        draw(self._figure.add_subplot(), self._env, obs)
        self._canvas.draw()
        pixels = bytes(self._canvas.buffer_rgba())
        if pixels not in self._known:
            self._known[pixels] = len(self._pictures)
            size = self._canvas.get_width_height()
            picture = Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1).convert("RGB")
            self._pictures.append(picture.quantize(COLORS))
        self.order.append(self._known[pixels])

    def uris(self) -> list[str]:
        """The pictures as `data:image/png` URIs, together at most MOST_BYTES of PNG."""
        scale, files = 1.0, [_png(picture) for picture in self._pictures]
        while sum(map(len, files)) > MOST_BYTES and scale > 0.1:
            scale *= 0.8
            smaller = (round(SIZE[0] * scale), round(SIZE[1] * scale))
            files = [_png(picture.convert("RGB").resize(smaller).quantize(32)) for picture in self._pictures]
        return [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in files]


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
