"""Where one value of Redis' protocol ends and the next begins; what it says is nobody's concern here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

PIECE = 1 << 18
LINES, TEXTS, PAIRS, LISTS = b"+-:_#,(", b"$!=", b"%|", b"*~>"


class Incomplete(Exception):
    """The rest has not arrived yet."""


def value_end(data: bytes, start: int = 0) -> int:
    """Where the RESP2 or RESP3 value that begins at `start` ends. Raises Incomplete."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        raise Incomplete
    kind, end = data[start : start + 1], line_end + 2
    if kind in LINES:
        return end
    if kind not in TEXTS + PAIRS + LISTS:
        raise ValueError(f"neither RESP2 nor RESP3: {data[start:end]!r}")
    size = int(data[start + 1 : line_end])
    if kind in TEXTS:
        end += size + 2 if size >= 0 else 0
    else:
        # Attributes are not a value, but belong to the one that follows.
        for _ in range(size * (2 if kind in PAIRS else 1) + (kind == b"|")):
            end = value_end(data, end)
    if end > len(data):
        raise Incomplete
    return end


def batches(connection: socket.socket) -> Iterator[list[bytes]]:
    """Whole values, those together that arrived at once. Ends with the connection."""
    buffer, batch = b"", []
    with suppress(OSError):  # reset
        while piece := connection.recv(PIECE):
            buffer += piece
            with suppress(Incomplete):
                while buffer:
                    end = value_end(buffer)
                    batch.append(buffer[:end])
                    buffer = buffer[end:]
                yield batch
                batch = []
    if batch:
        yield batch
