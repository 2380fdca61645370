"""A round trip through TVM's FFI, in a process of its own: with a wrong FFI version it dies of a segmentation fault."""

import sys


def main() -> None:
    """Save and load a small module, as every tuning database does; print `fits` if it came back equal."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM's FFI would import it: a second, for nothing
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.add(x, x)))
    module = builder.get()
    again = tvm.ir.load_json(tvm.ir.save_json(module))
    tvm.ir.assert_structural_equal(module, again)
    print("fits")


if __name__ == "__main__":
    main()
