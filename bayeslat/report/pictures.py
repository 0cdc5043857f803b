"""Pictures inside a page: figures as data URIs, with a text for whoever cannot see them.

A page has one picture for light and dark: the style sheet turns it over in dark mode (inverted, and
hues turned back), which costs nothing, while a second set of pictures would double the page.
"""

import base64
import io
from typing import Final, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["Picture", "drawn"]

DPI: Final = 130
COLOURS: Final = 256
"""Colours of a picture: lines and text need no more, and the file is a third of the size."""


class Picture(NamedTuple):
    """A picture as a page shows it.

    Attributes
    ----------
    source : str
        Data URI.
    alt : str
        What the picture shows.
    width, height : int
        Pixels of the page, so that text does not jump when the picture comes.
    """

    source: str
    alt: str
    width: int
    height: int


def drawn(figure: Figure, alt: str) -> Picture:
    """A figure as a picture."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    # Two thirds as large as its pixels: sharp on dense screens.
    width, height = (round(size / 1.35) for size in image.size)
    coded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{coded}", alt, width, height)
