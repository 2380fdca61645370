"""The children of `isolation`: a nursery of them is `python -m lowprec.worker SOCKET`, and each does one task.

The request comes as JSON on standard input; the descriptor for the answer takes JSON lines; the one for the place
always holds the name of the node at hand.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from lowprec.confinement import OutOfTime, confined, widen
from lowprec.errors import InvalidModel, LowprecError
from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph
from lowprec.isolation import PLACE_BYTES
from lowprec.nursery import serve

Request = Mapping[str, Any]
Say = Callable[[Mapping[str, Any]], None]


def accept(request: Request, mark: Callable[[str], None]) -> Graph:
    """The request's model through the front end, under limits that end with it."""
    path = str(request["model"])
    shapes = {name: tuple(shape) for name, shape in (request.get("input_shapes") or {}).items()}
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    name = os.path.basename(path)
    try:
        with confined(size):
            return load_graph(path, input_shapes=shapes, on_size=widen, on_node=mark)
    except OutOfTime as error:
        raise InvalidModel(f"{name}: refused, because checking it took longer than a file of its size may") from error
    except MemoryError as error:
        raise InvalidModel(
            f"{name}: refused, because checking it needs more memory than a file of its size may"
        ) from error


ON_A_MODEL: Mapping[str, tuple[str, str]] = {
    "inspect": ("lowprec.inspection", "inspect_task"),
    "plan": ("lowprec.inspection", "plan_task"),
    "compile": ("lowprec.pipeline", "compile_task"),
    "export": ("lowprec.quantized_files", "export_task"),
}
"""The module and function of each task on a model that was accepted."""

WITHOUT_MODEL: Mapping[str, tuple[str, str]] = {"peaks": ("lowprec.peak_timing", "peaks_task")}


def prepare(task: str) -> Callable[..., dict[str, Any]]:
    """The function of a task, with all that it needs imported."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM's FFI would import it: seconds, for nothing
    module, name = {**ON_A_MODEL, **WITHOUT_MODEL}[task]
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    return function


def main(task: str, descriptor: int, place: int) -> int:
    """Answers one request."""
    with os.fdopen(descriptor, "w", encoding="utf-8") as channel:

        def say(message: Mapping[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        def mark(text: str) -> None:
            os.pwrite(place, text.encode(errors="replace")[:PLACE_BYTES].ljust(PLACE_BYTES), 0)

        say(answer(task, json.load(sys.stdin), say, mark))
    return 0


def answer(task: str, request: Request, say: Say, mark: Callable[[str], None]) -> Mapping[str, Any]:
    """{"result"} or {"error"}; an unexpected exception is a bug of ours, and travels with its traceback."""
    try:
        if task in WITHOUT_MODEL:
            say({"stage": "build"})
            return {"result": prepare(task)(request)}
        say({"stage": "front end"})
        graph = accept(request, mark)
        say({"stage": "build"})
        return {"result": prepare(task)(request, graph, lambda line: say({"notice": line}))}
    except LowprecError as error:
        return {"error": {"exit_code": error.exit_code, "message": str(error), "details": traceback.format_exc()}}
    except BaseException as error:
        message = f"internal error in {task}: {type(error).__name__}: {error}"
        return {"error": {"exit_code": 70, "message": " ".join(message.split()), "details": traceback.format_exc()}}


if __name__ == "__main__":
    serve(main, prepare)
