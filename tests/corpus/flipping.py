"""Sound models with a few bytes changed at random: refused or not, but never a crash. Run as a program, in a child."""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from lowprec.errors import LowprecError
from lowprec.frontend import load_graph
from tests.corpus.case import network

TELLING = (0, 1, 2, 0x7F, 0x80, 0xFF)


def flipped(seed: int) -> bytes:
    """The small network after some overwriting, deleting or copying of bytes."""
    draw = random.Random(seed)
    data = bytearray(network(seed % 5).SerializeToString())
    place, length = draw.randrange(len(data)), draw.choice((1, 2, 8, 50))
    match draw.randrange(4):
        case 0:
            del data[place : place + length]
        case 1:
            data[place:place] = data[draw.randrange(len(data)) :][:length]
        case _:
            for _ in range(draw.choice((1, 1, 2, 8))):
                data[draw.randrange(len(data))] = draw.choice((*TELLING, draw.randrange(256)))
    return bytes(data)


def main() -> None:
    """Tries so many seeds from the first, and prints how often each exit code came."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    codes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for seed in range(first, first + count):
            path.write_bytes(flipped(seed))
            try:
                load_graph(path)
                codes[0] += 1
            except LowprecError as error:
                codes[error.exit_code if str(error).isprintable() else 70] += 1
    print(sorted(codes))


if __name__ == "__main__":
    main()
