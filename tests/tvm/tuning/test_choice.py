"""What the plan, and compile, make of records."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import lowprec
from lowprec.convolution import Conv
from lowprec.plan import Times, make_plan
from lowprec.recipe import Recipe
from lowprec.records import FAILED, LATE, RIGHT, WRONG, Records, Trial, environment_of, subject_of
from lowprec.targets import native
from tests.layers import conv, layer
from tests.tvm.tuning.network import CONV, MODEL, SUBJECT, THREADS, choice


def trial(algorithm: str, seconds: float | None = 1e-3, sizes: tuple[int, ...] = (), status: str = RIGHT) -> Trial:
    return Trial(subject=SUBJECT, algorithm=algorithm, sizes=sizes, status=status, seconds=seconds, error=1e-7)


def write(path: Path, *found: Trial) -> Path:
    with Records(path) as store:
        store.add(found)
    return path


def test_the_fastest_right_one_is_chosen(records: Path) -> None:
    write(records, trial("direct", 3e-3), trial("im2col", 1e-3), trial("winograd:4", 2e-3))
    found = choice(records)
    assert found.algorithm == "im2col"
    assert found.reason.endswith("measured 3.0 times as fast as direct")
    assert found.milliseconds == pytest.approx(1.0)
    assert choice(records, algorithm="winograd").algorithm == "winograd:4"
    assert choice(records, algorithm="direct").algorithm == "direct"
    assert choice(records, algorithm="fft").algorithm == "fft", "what was not measured can be wished for"


def test_direct_may_be_what_is_measured_fastest(records: Path) -> None:
    write(records, trial("direct", 1e-4), trial("im2col", 1e-3))
    found = choice(records)
    assert found.algorithm == "direct"
    assert found.reason.endswith(", measured")


@pytest.mark.parametrize("status", [WRONG, FAILED, LATE])
def test_what_was_not_right_is_never_chosen(records: Path, status: str) -> None:
    write(records, trial("winograd:4", 1e-9, status=status), trial("direct", 1e-3), trial("im2col", 2e-3))
    assert choice(records).algorithm == "direct"


def test_sizes_of_a_transform_are_those_measured(records: Path) -> None:
    write(records, trial("direct", 1e-3), trial("fft", 1e-4, (16, 12)))
    found = choice(records)
    assert (found.algorithm, found.sizes) == ("fft", (16, 12))
    artifact = lowprec.compile(MODEL, records=records, threads=THREADS)
    assert artifact.plan.choice("first").sizes == (16, 12)
    assert lowprec.verify(artifact, MODEL).passed


ODD: Mapping[str, Trial] = {
    "another tile": trial("winograd:5", 1e-9),
    "no tile": trial("winograd:x", 1e-9),
    "a bare family": trial("winograd", 1e-9),
    "no algorithm": trial("rm -rf", 1e-9),
    "nothing": trial("", 1e-9),
    "auto": trial("auto", 1e-9),
    "a size there is none of": trial("fft", 1e-9, (7,)),
    "a size smaller than the taps": trial("fft", 1e-9, (2, 2)),
    "three sizes": trial("fft", 1e-9, (12, 12, 12)),
    "one size": trial("fft", 1e-9, (12,)),
    "no sizes": trial("fft", 1e-9),
    "sizes of direct": trial("direct", 1e-9, (12, 12)),
    "sizes of Winograd": trial("winograd:4", 1e-9, (7, 9)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_record_that_names_nothing_of_ours_is_passed_over(odd: Trial, records: Path) -> None:
    """Whoever can write the file can write anything: the plan is made, and of what there is."""
    write(records, odd, trial("im2col", 1e-3), trial("direct", 2e-3))
    found = choice(records)
    assert (found.algorithm, found.sizes) == ("im2col", ())
    assert found.reason.endswith("measured 2.0 times as fast as direct")


def test_what_is_over_the_error_budget_is_not_chosen_though_faster() -> None:
    wide = conv(in_channels=1024, out_channels=1024)
    times: dict[Conv, Times] = {wide: {("winograd:6", ()): 1e-9, ("direct", ()): 2e-3, ("winograd:2", ()): 1e-3}}
    (found,) = make_plan([layer("c", "Conv", wide)], recipe=Recipe(), target=native(), measured=times).choices
    assert found.algorithm == "winograd:2"
    (found,) = make_plan(
        [layer("c", "Conv", wide)], recipe=Recipe(), algorithm="winograd:6", target=native(), measured=times
    ).choices
    assert found.algorithm == "winograd:6"


def test_another_machine_or_thread_count_or_version_is_not_used(records: Path) -> None:
    here = environment_of(native(), THREADS)
    others = [
        here | {"threads": THREADS + 1},
        here | {"arch": "riscv64"},
        here | {"features": here["features"][:-1]},
        here | {"versions": here["versions"] | {"tvm": "0.1"}},
        here | {"versions": here["versions"] | {"kernels": -1}},
    ]
    write(records, *(replace(trial("im2col", 1e-9), subject=subject_of(CONV, other)) for other in others))
    assert "measured" not in choice(records).reason
    write(records, trial("im2col", 1e-9))
    assert choice(records).algorithm == "im2col"


def test_a_time_with_none_of_direct_beside_it_is_called_measured(records: Path) -> None:
    write(records, trial("im2col", 1e-3))
    found = choice(records)
    assert found.milliseconds == pytest.approx(1.0)
    assert "measured" in found.reason
    assert "predicted" not in found.reason


def test_the_records_travel_with_the_plan_and_the_model_is_right(records: Path) -> None:
    write(records, trial("direct", 3e-3), trial("im2col", 1e-3))
    artifact = lowprec.compile(MODEL, records=records, threads=THREADS)
    assert {artifact.plan.choice(name).algorithm for name in ("first", "second")} == {"im2col"}
    assert {c.family for c in artifact.manifest.calls if "conv" in c.op} == {"im2col"}
    report = lowprec.verify(artifact, MODEL)
    assert report.passed, str(report)
    assert onnx.load(io.BytesIO(MODEL)).graph.name == "tuned"
