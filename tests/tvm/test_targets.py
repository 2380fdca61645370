"""TVM and LLVM take every target, and LLVM knows every attribute it is given."""

import subprocess
import sys

from lowprec.targets import LLVM_ATTRIBUTES, TARGETS, Target

EVERYTHING = tuple(
    Target(name=f"every {arch} flag", arch=arch, features=frozenset(flags)) for arch, flags in LLVM_ATTRIBUTES.items()
)
# x86-64-v2 as the processor, so that what later processors imply is spelled out too.
SPELLED = Target(name="spelled", arch="x86_64", features=frozenset(LLVM_ATTRIBUTES["x86_64"]) - {"avx2"})

CODE = """
import sys
sys.modules["torch"] = None
import tvm
from tvm import te
x = te.placeholder((16,), "float32", "x")
y = te.compute((16,), lambda i: x[i] + x[i], "y")
module = tvm.IRModule({"main": te.create_prim_func([x, y]).with_attr("global_symbol", "main")})
for target in %r:
    assert len(tvm.tirx.build(module, target=tvm.target.Target(target)).inspect_source()) > 0
"""


def complaints(targets: list[dict[str, object]]) -> str:
    """What TVM and LLVM say on stderr while they generate code for the targets, in a process of their own."""
    child = subprocess.run([sys.executable, "-c", CODE % targets], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stderr


def test_llvm_takes_every_target() -> None:
    """LLVM only mutters `not a recognized feature` and goes on, so its silence is what is tested."""
    assert "recognized" not in complaints([target.tvm_target(2) for target in (*TARGETS, *EVERYTHING, SPELLED)])


def test_llvm_does_mutter() -> None:
    made_up = TARGETS[0].tvm_target(1) | {"mattr": ["+avx513"]}
    assert "'+avx513' is not a recognized feature" in complaints([made_up])
