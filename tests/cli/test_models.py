"""The verbs that read a model without compiling it."""

import json
from pathlib import Path

import onnx

from tests.cli.conftest import Lowprec, conv_relu_gemm


def test_inspect(lowprec: Lowprec, model: Path) -> None:
    result = lowprec("inspect", model, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["schema"] == "lowprec.inspect/1"
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, 8, 8]}]
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers["conv"]["macs"] == 64 * 8 * 27
    assert layers["conv"]["parameters"] == 8 * 27 + 8
    assert document["totals"]["macs"] == 64 * 8 * 27 + 8 * 5
    text = lowprec("inspect", model).out
    assert "input x: float32[1, 3, 8, 8]" in text
    assert "1x3x8x8 8x3x3x3 8" in text


def test_plan(lowprec: Lowprec, model: Path) -> None:
    document = json.loads(lowprec("plan", model, "--json", "--algorithm", "direct").out)
    assert document["schema"] == "lowprec.plan/1"
    choices = {choice["layer"]: choice for choice in document["choices"]}
    assert choices["conv"]["algorithm"] == "direct"
    assert choices["y"]["algorithm"] == "gemm"
    assert choices["y"]["declined"] == ["direct: this layer is a matrix product, and direct needs a convolution"]
    assert all(choice["reason"] for choice in choices.values())
    assert "declined direct" in lowprec("plan", model, "--algorithm", "direct").out


def test_a_recipe_overrides_layer_by_layer(lowprec: Lowprec, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[rule]]\nop = "Gemm"\nalgorithm = "auto"\n')
    result = lowprec("plan", model, "--json", "--algorithm", "direct", "--recipe", recipe)
    assert not any(choice["declined"] for choice in json.loads(result.out)["choices"])


def test_input_shapes(lowprec: Lowprec, tmp_path: Path) -> None:
    path = tmp_path / "symbolic.onnx"
    onnx.save(conv_relu_gemm("batch"), path)
    assert json.loads(lowprec("inspect", path, "--json").out)["inputs"][0]["shape"] == [1, 3, 8, 8]
    for shape in ("x:4x3x8x8", "x:[4,3,8,8]"):
        document = json.loads(lowprec("inspect", path, "--json", "--input-shape", shape).out)
        assert document["inputs"][0]["shape"] == [4, 3, 8, 8]
    result = lowprec("inspect", path, "--input-shape", "z:4x3x8x8")
    assert (result.code, result.out) == (2, "")
    assert "'z'" in result.err


def test_a_name_cannot_write_to_the_terminal(lowprec: Lowprec, tmp_path: Path) -> None:
    model = conv_relu_gemm()
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["a\nb\x1b[2J" if name == "conv" else name for name in names]
    onnx.save(model, tmp_path / "odd.onnx")
    for verb in ("inspect", "plan"):
        result = lowprec(verb, tmp_path / "odd.onnx")
        assert result.code == 0, result.err
        assert r"a\nb\x1b[2J " in result.out
        assert "\x1b" not in result.out


def test_a_file_that_is_no_model(lowprec: Lowprec, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"this is not a model")
    result = lowprec("plan", path)
    assert (result.code, result.out) == (3, "")
    assert result.err.count("\n") == 1
