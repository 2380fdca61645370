"""One trial: a right kernel is found right and timed, a wrong one is not."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from lowprec import trials
from lowprec.convolution import Conv
from lowprec.records import FAILED, RIGHT, WRONG
from lowprec.schedules.convolution import pack_convolution
from tests.layers import conv
from tests.tvm.kernels import Array
from tests.tvm.tuning.network import CONV, THREADS


def request(algorithm: str, sizes: tuple[int, ...] = (), geometry: Conv = CONV) -> dict[str, Any]:
    return {
        "conv": json.loads(json.dumps(asdict(geometry))),
        "algorithm": algorithm,
        "sizes": list(sizes),
        "target": "native",
        "threads": THREADS,
    }


SMALL = conv(size=(9, 8), in_channels=5, out_channels=18)


@pytest.mark.parametrize(
    ("algorithm", "sizes", "geometry"),
    [
        ("direct", (), SMALL),
        ("im2col", (), replace(SMALL, stride=(2, 1), groups=1)),
        ("im2col", (), replace(SMALL, in_channels=6, groups=2)),
        ("winograd:4", (), replace(SMALL, batch=2)),
        ("winograd:6", (), replace(SMALL, size=(25, 24), in_channels=8, stride=(2, 1), batch=2)),
        ("fft", (12, 16), SMALL),
        ("fft", (12, 16), replace(SMALL, size=(25, 24), stride=(2, 2))),
        ("fft", (12, 12), replace(SMALL, in_channels=18, groups=18)),
        ("direct", (), replace(SMALL, in_channels=18, groups=18, dilation=(2, 1))),
    ],
    ids=str,
)
def test_a_right_kernel_is_found_right(
    algorithm: str, sizes: tuple[int, ...], geometry: Conv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    answer = trials.attempt(request(algorithm, sizes, geometry), trials.Yardstick())
    assert answer["status"] == RIGHT, answer
    assert answer["seconds"] > 0


@pytest.mark.parametrize("spoil", [1.001, np.nan, 0.0], ids=str)
@pytest.mark.parametrize(("algorithm", "sizes"), [("direct", ()), ("winograd:2", ()), ("fft", (12, 12))], ids=str)
def test_a_kernel_that_answers_wrongly_is_wrong(
    algorithm: str, sizes: tuple[int, ...], spoil: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not those it is checked with; it has no time."""

    def wrong(*arguments: Any) -> list[Array]:
        weights, *rest = pack_convolution(*arguments)
        return [weights * np.float32(spoil), *rest]

    monkeypatch.setattr(trials, "pack_convolution", wrong)
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    answer = trials.attempt(request(algorithm, sizes, SMALL), trials.Yardstick())
    assert answer["status"] == WRONG
    assert "seconds" not in answer
    assert answer["detail"].startswith("off by ")


def test_what_does_not_fit_fails_with_its_sentence() -> None:
    answer = trials.attempt(request("winograd:4", (), conv(stride=(3, 3))), trials.Yardstick())
    assert answer == {"status": FAILED, "detail": "one tap a phase of its stride: there are no products to save"}


def test_the_child_answers_a_line_a_request() -> None:
    asked = [request("im2col", (), SMALL), request("winograd:4", (), replace(SMALL, stride=(3, 3)))]
    lines = "".join(json.dumps(each) + "\n" for each in asked) + "nonsense\n"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lowprec.trials"], input=lines, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == [RIGHT, FAILED, FAILED]
