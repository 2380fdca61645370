"""The algorithms a convolution may be computed by, each with what it would cost or why it does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from lowprec.convolution import Conv
from lowprec.predicting import BUDGET, Prediction, predict_direct, predict_im2col
from lowprec.predicting_fourier import fourier_obstacle, is_tile, predict_fourier, sizes_by_time
from lowprec.predicting_planes import predict_planes, turning_cycles
from lowprec.predicting_winograd import TILES, filterings, predict_winograd, winograd_obstacle
from lowprec.targets import Target

DIRECT = "direct"
WINOGRAD = "winograd"
FFT = "fft"
IM2COL = "im2col"

HOPELESS = 4.0
"""What is predicted to take so many times as long as the fastest is not measured."""

NEAR_SIZES = 3
"""Of Fourier transforms that are measured."""

ABOUT = 1.03
"""Times so near to each other that a prediction does not tell them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One algorithm for one layer: `obstacle` says why it does not fit, else `prediction` what it takes. `sizes` are
    the points of a Fourier transform."""

    algorithm: str
    detail: str = ""
    obstacle: str = ""
    prediction: Prediction | None = None
    sizes: tuple[int, ...] = ()

    def is_a(self, wish: str) -> bool:
        """Whether it is what a user asks for: `winograd` is any of its tiles."""
        return wish in (self.algorithm, self.algorithm.partition(":")[0])

    @property
    def cycles(self) -> float:
        return self.prediction.cycles if self.prediction else inf

    @property
    def milliseconds(self) -> float | None:
        return self.prediction.milliseconds if self.prediction else None

    @property
    def error(self) -> float | None:
        return self.prediction.error if self.prediction else None

    @property
    def within_budget(self) -> bool:
        """Sums in order are what the budget is for the others to come near to, and so always within it."""
        return self.error is not None and (self.error <= BUDGET or self.algorithm in (DIRECT, IM2COL))

    @property
    def too_inexact(self) -> str:
        return f"its predicted error {self.error:.1e} is more than the layer's budget {BUDGET:g}"


@lru_cache
def candidates(conv: Conv, target: Target) -> tuple[Candidate, ...]:
    """Every algorithm; the direct one fits always."""
    direct = Candidate(algorithm=DIRECT, prediction=predict_direct(conv, target))
    winograd = (_winograd(conv, outputs, target) for outputs in TILES)
    return (direct, _im2col(conv, target), *winograd, _fourier(conv, target))


def candidates_of_planes(conv: Conv, target: Target) -> tuple[Candidate, ...]:
    """The same where the input's channels lie one after the other, and the direct kernel can leave them so."""
    direct, *others = candidates(conv, target)
    turned = (_turned(candidate, conv) for candidate in others)
    return (replace(direct, prediction=predict_planes(conv, target)), *turned)


def best_of(able: Sequence[Candidate]) -> Candidate:
    """The most exact of those about as fast as the fastest."""
    fastest = min(candidate.cycles for candidate in able)
    near = [candidate for candidate in able if candidate.cycles <= ABOUT * fastest]
    return min(near, key=lambda candidate: (candidate.error, candidate.cycles))


def named(algorithm: str, sizes: Sequence[int]) -> str:
    """An algorithm and its sizes in a few words: `winograd:4`, `fft 16x16`."""
    return f"{algorithm} {'x'.join(map(str, sizes))}".strip()


def winograd_outputs(algorithm: str) -> int | None:
    """The tile of `winograd:4`, or None for any other algorithm."""
    name, _, outputs = algorithm.partition(":")
    return int(outputs) if name == WINOGRAD else None


def _turned(candidate: Candidate, conv: Conv) -> Candidate:
    """The candidate with the time for turning its input, and its result back."""
    if candidate.prediction is None:
        return candidate
    cycles = candidate.cycles + turning_cycles(conv)
    return replace(candidate, prediction=replace(candidate.prediction, cycles=cycles))


def _winograd(conv: Conv, outputs: int, target: Target) -> Candidate:
    name = f"{WINOGRAD}:{outputs}"
    obstacle = winograd_obstacle(conv, outputs)
    if obstacle:
        return Candidate(algorithm=name, obstacle=obstacle)
    axes = filterings(conv, outputs)
    tile, taps = ("x".join(str(getattr(axis, which)) for axis in axes) for which in ("outputs", "taps"))
    return Candidate(
        algorithm=name, detail=f"Winograd F({tile}, {taps})", prediction=predict_winograd(conv, outputs, target)
    )


def _im2col(conv: Conv, target: Target) -> Candidate:
    if conv.transposed:
        return Candidate(algorithm=IM2COL, obstacle="transposed: im2col needs a plain convolution")
    return Candidate(
        algorithm=IM2COL, detail="patches copied, a matrix product", prediction=predict_im2col(conv, target)
    )


def _fourier(conv: Conv, target: Target) -> Candidate:
    obstacle = fourier_obstacle(conv)
    if obstacle:
        return Candidate(algorithm=FFT, obstacle=obstacle)
    return _fourier_of(conv, sizes_by_time(conv, target)[0][0], target)


def candidate_of(conv: Conv, algorithm: str, sizes: tuple[int, ...], target: Target) -> Candidate | None:
    """The candidate of exactly that name and those sizes, if the layer can be computed so."""
    if algorithm == FFT:
        fits = not fourier_obstacle(conv) and is_tile(conv, sizes)
        return _fourier_of(conv, (sizes[0], sizes[1]), target) if fits else None
    found = (candidate for candidate in candidates(conv, target) if not candidate.obstacle)
    return next((candidate for candidate in found if (candidate.algorithm, ()) == (algorithm, sizes)), None)


def tunable(conv: Conv, target: Target) -> list[Candidate]:
    """What is worth measuring: all that fits, is exact enough and not out of the question; FFT in several sizes."""
    able = [candidate for candidate in candidates(conv, target) if candidate.within_budget]
    if any(candidate.algorithm == FFT for candidate in able):
        able += [_fourier_of(conv, sizes, target) for sizes, _ in sizes_by_time(conv, target)[1:NEAR_SIZES]]
    fastest = min(candidate.cycles for candidate in able)
    return [candidate for candidate in able if candidate.cycles <= HOPELESS * fastest]


def _fourier_of(conv: Conv, sizes: tuple[int, int], target: Target) -> Candidate:
    detail = f"FFT in tiles of {'x'.join(map(str, sizes))}"
    return Candidate(algorithm=FFT, detail=detail, prediction=predict_fourier(conv, sizes, target), sizes=sizes)
