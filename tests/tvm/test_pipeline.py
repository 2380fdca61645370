"""The whole way from a graph to a library: what is shared, what things are called, what a probe build shows."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

import lowprec
from lowprec.artifact import Artifact
from lowprec.building import linker, write_object
from lowprec.compilation import Options, compile_to
from lowprec.errors import EnvironmentMismatch, Unsupported
from lowprec.schedules.convolution import ConvolutionRequest, build_convolution, convolution_kernel
from lowprec.schedules.epilogue import Epilogue
from lowprec.targets import machine_arch, parse_target
from tests.tvm.kernels import padded
from tests.tvm.schedules.test_convolution import PLAIN

X = helper.make_tensor_value_info("in put:0", TensorProto.FLOAT, [1, 3, 12, 12])
Y = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5])


def constant(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values / np.sqrt(max(1, values[0].size)).astype(np.float32), name)


def residual_blocks() -> onnx.ModelProto:
    """Three equal residual blocks, a pool and a Gemm; names as exporters make them."""
    nodes = [helper.make_node("Conv", ["in put:0", "w0", "b"], ["stem/Conv:0"], pads=[1, 1, 1, 1])]
    last = "stem/Conv:0"
    for block in (1, 2, 3):
        nodes += [
            helper.make_node("Conv", [last, f"w{block}", "b"], [f"{block}/Conv:0"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", [f"{block}/Conv:0", last], [f"{block}/Add"]),
            helper.make_node("Relu", [f"{block}/Add"], [f"{block}/Relu"]),
        ]
        last = f"{block}/Relu"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "fb"], ["out"], transB=1),
    ]
    weights = [
        constant("w0", 8, 3, 3, 3),
        constant("w1", 8, 8, 3, 3, seed=1),
        constant("w2", 8, 8, 3, 3, seed=2),
        constant("w3", 8, 8, 3, 3, seed=6),
        constant("b", 8, seed=3),
        constant("fc", 5, 8, seed=4),
        constant("fb", 5, seed=5),
    ]
    graph = helper.make_graph(nodes, "blocks", [X], [Y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "blocks.onnx"
    onnx.save(residual_blocks(), path)
    return path


@pytest.fixture(scope="module")
def artifact(model_file: Path) -> Artifact:
    return lowprec.compile(model_file, algorithm="direct", threads=1)


def test_layers_keep_their_names(artifact: Artifact) -> None:
    calls = {call.layer: call for call in artifact.manifest.calls}
    assert calls["2/Conv:0"].op == "conv2d+add+add+relu"
    assert calls["2/Conv:0"].output == "2/Relu"
    assert calls["out"].op == "matmul+add"
    assert "" not in calls


def test_equal_layers_share_a_kernel(artifact: Artifact) -> None:
    first, second, third = (
        call for call in artifact.manifest.calls if call.layer in ("1/Conv:0", "2/Conv:0", "3/Conv:0")
    )
    assert first.symbol == second.symbol
    assert third.symbol != first.symbol, "the last block writes no padding for another convolution"


def test_plan_and_kernels_agree(artifact: Artifact) -> None:
    families = {call.layer: call.symbol.split("_")[0] for call in artifact.manifest.calls if "conv" in call.op}
    planned = {c.layer: c.algorithm for c in artifact.plan.choices if c.algorithm == "direct"}
    assert planned.keys() == families.keys()
    assert set(families.values()) == {"direct"}


def test_a_probe_build_shows_every_tensor(model_file: Path, tmp_path: Path) -> None:
    compile_to(str(tmp_path / "probe"), model_file, Options(threads=1), command="", probe=True)
    probe = lowprec.load(tmp_path / "probe")
    names = {spec.tensor for spec in probe.manifest.probes}
    assert {"1/Relu", "2/Relu", "pool", "out"} <= names

    model = residual_blocks()
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(names - {"out"}))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"in put:0": x}), strict=True))
    _, tensors = probe.run_probes({"in put:0": x})
    assert tensors.keys() == names
    for name, tensor in tensors.items():
        found = np.asarray(tensor, np.float32)
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
def test_targets_give_the_same_answers(artifact: Artifact, model_file: Path, target: str) -> None:
    x = np.random.default_rng(2).standard_normal((1, 3, 12, 12)).astype(np.float32)
    other = lowprec.compile(model_file, threads=1, target=target)
    np.testing.assert_allclose(other(x), artifact(x), rtol=1e-4, atol=1e-5)


def test_the_same_build_gives_the_same_bits_at_any_thread_count(model_file: Path) -> None:
    x = np.random.default_rng(3).standard_normal((1, 3, 12, 12)).astype(np.float32)
    artifact = lowprec.compile(model_file, threads=2)
    artifact.save(model_file.with_suffix(".lowprec"))
    answers = {lowprec.load(model_file.with_suffix(".lowprec"), threads=n)(x).tobytes() for n in (1, 2, 3)}
    assert len(answers) == 1


def test_a_missing_linker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    other = "aarch64" if machine_arch() != "aarch64" else "x86-64"
    with pytest.raises(EnvironmentMismatch, match="apt-get install gcc-"):
        linker(parse_target(other))
    with pytest.raises(EnvironmentMismatch, match="apt-get install gcc"):
        linker(parse_target("native"))


def test_kernels_for_aarch64_are_built(tmp_path: Path) -> None:
    target = parse_target("aarch64")
    window = padded((1, 9, 19, 20), (0, 0, 0, 0), (0, 0, 0, 0))
    result = padded((1, 7, 17, 40), (0, 1, 1, 0), (0, 1, 1, 0))
    request = ConvolutionRequest(conv=PLAIN, source=window, result=result, epilogue=Epilogue(), bias=True)
    kernel = build_convolution(convolution_kernel(request, target)).with_attr("global_symbol", "direct_0")
    path = tmp_path / "kernel.o"
    write_object({"direct_0": kernel}, tvm.target.Target(target.tvm_target(2)), path)
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_calls_cost_what_the_model_asks_for(artifact: Artifact) -> None:
    calls = {call.layer: call for call in artifact.manifest.calls if call.cost.macs}
    assert {layer: call.cost.macs for layer, call in calls.items()} == {
        "stem/Conv:0": 144 * 8 * 3 * 9,
        **{f"{block}/Conv:0": 144 * 8 * 8 * 9 for block in (1, 2, 3)},
        "out": 8 * 5,
    }
    assert {call.family for call in calls.values()} == {"direct", "gemm"}
    assert calls["2/Conv:0"].cost.weight_bytes == 4 * (8 * 8 * 9 + 8)
    assert calls["2/Conv:0"].cost.tensor_bytes == 4 * 144 * (8 + 8), "the residual is the tensor it convolves"


def test_a_transposed_convolution_costs_what_the_model_asks_for() -> None:
    """It runs as a plain one of four times the channels and 2 x 2 taps, 7 of 16 of them zero."""
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 11, 11]),
    ]
    graph = helper.make_graph([node], "transposed", ends[:1], ends[1:], [constant("w", 4, 6, 3, 3)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    calls = lowprec.compile(model, threads=1).manifest.calls
    assert sum(call.cost.macs for call in calls) == 5 * 5 * 4 * 6 * 9
    assert sum(call.cost.weight_bytes for call in calls) == 4 * 4 * 6 * 9


def dropping() -> onnx.ModelProto:
    """A Dropout whose ratio and mode are inputs of the model."""
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("training", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(
        [node], "dropping", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_run_that_asks_for_training_is_refused() -> None:
    artifact = lowprec.compile(dropping(), threads=1)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    half, none = np.float32(0.5), np.float32(0)
    for ratio, training in ((half, False), (none, True)):
        answer = artifact(x, np.asarray(ratio), np.asarray(training))
        assert np.array_equal(answer, x)
    with pytest.raises(Unsupported, match="Dropout node 'y': input 'training' asks for training"):
        artifact(x, np.asarray(half), np.asarray(True))
