"""A manifest made by hand, for tests that need one and no compiler."""

import hashlib
from collections.abc import Sequence

from lowprec import manifest as manifests
from lowprec.manifest import CallSpec, Manifest, ModelSource, ProbeSpec, TargetNeeds
from lowprec.plan import Choice, Formats, Plan
from lowprec.targets import machine_arch
from lowprec.tensors import TensorSpec


def hand_made(
    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", dtype="float32", shape=(3, 5)),),
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", dtype="float32", shape=(3, 4)),),
    *,
    calls: Sequence[CallSpec] = (),
    probes: Sequence[ProbeSpec] = (),
    features: Sequence[str] = (),
    threads: int | None = None,
) -> Manifest:
    """A manifest as the pipeline makes it; `write` adds files and weights."""
    choice = Choice(layer="y", op="Gemm", algorithm="direct", formats=Formats(), reason="made by hand")
    return Manifest(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        plan=Plan(choices=(choice,)),
        options={"precision": "fp32", "input_shapes": {"x": [3, 5]}, "threads": None},
        target=TargetNeeds(name="toy", arch=machine_arch(), features=tuple(features)),
        versions=manifests.current_versions(),
        calls=tuple(calls),
        probes=tuple(probes),
        model=ModelSource(path="toy.onnx", sha256=hashlib.sha256(b"toy").hexdigest()),
        command="lowprec compile toy.onnx -o toy.lowprec",
        threads=threads,
    )
