"""The child of `isolation`: `python -m lowprec.worker TASK ANSWER PLACE` does a task and answers through descriptors.

The request comes as JSON on standard input; ANSWER takes JSON lines; PLACE always holds the name of the node at hand.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from lowprec.confinement import OutOfTime, confined, die_with_parent, widen
from lowprec.errors import InvalidModel, LowprecError
from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph
from lowprec.isolation import PLACE_BYTES

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


def _inspect(request: Request, graph: Graph) -> dict[str, Any]:
    from lowprec.inspection import inspect_task

    return inspect_task(request, graph)


def _plan(request: Request, graph: Graph) -> dict[str, Any]:
    from lowprec.inspection import plan_task

    return plan_task(request, graph)


def _compile(request: Request, graph: Graph) -> dict[str, Any]:
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM's FFI would import it: a second, for nothing
    from lowprec.pipeline import compile_task

    return compile_task(request, graph)


def _export(request: Request, graph: Graph) -> dict[str, Any]:
    sys.modules["torch"] = None  # type: ignore[assignment]
    from lowprec.quantized_files import export_task

    return export_task(request, graph)


TASKS: Mapping[str, Callable[[Request, Graph], dict[str, Any]]] = {
    "inspect": _inspect,
    "plan": _plan,
    "compile": _compile,
    "export": _export,
}


def _peaks(request: Request) -> dict[str, Any]:
    sys.modules["torch"] = None  # type: ignore[assignment]
    from lowprec.peak_timing import peaks_task

    return peaks_task(request)


WITHOUT_MODEL: Mapping[str, Callable[[Request], dict[str, Any]]] = {"peaks": _peaks}


def main() -> int:
    """Answers one request."""
    task, descriptor, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    die_with_parent()
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
            return {"result": WITHOUT_MODEL[task](request)}
        say({"stage": "front end"})
        graph = accept(request, mark)
        say({"stage": "build"})
        return {"result": TASKS[task](request, graph)}
    except LowprecError as error:
        return {"error": {"exit_code": error.exit_code, "message": str(error), "details": traceback.format_exc()}}
    except BaseException as error:
        message = f"internal error in {task}: {type(error).__name__}: {error}"
        return {"error": {"exit_code": 70, "message": " ".join(message.split()), "details": traceback.format_exc()}}


if __name__ == "__main__":
    sys.exit(main())
