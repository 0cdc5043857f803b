"""Growing logs: `start` gives a position, `read` the rows behind it and the next position."""

from bayeslat.observations.following.chunks import Chunk, read, start
from bayeslat.observations.following.growing import Held
from bayeslat.observations.following.position import Position

__all__ = ["Chunk", "Held", "Position", "read", "start"]
