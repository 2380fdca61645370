"""`lowprec tune`: every convolution's candidates built and timed on this machine, and kept in a file of records.

Trials run in a child process, one after the other; one that crashes it or takes too long is recorded as such, and a new
child goes on. A trial is kept the moment it is done, so that an interrupted session loses none, and the next one begins
where it ended. The layers that take most of the model's predicted time come first.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowprec import strict_json
from lowprec.choosing import Candidate, named, tunable
from lowprec.compilation import Options, Shapes, as_recipe, model_file, run_on_model
from lowprec.convolution import Conv
from lowprec.engine_process import exchange, last_words
from lowprec.errors import BuildFailed, Unsupported, UsageError, shown
from lowprec.options import DEFAULT_TRIALS
from lowprec.plan import describe
from lowprec.recipe import Recipe
from lowprec.records import FAILED, LATE, RIGHT, WRONG, Records, Trial, environment_of, subject_of
from lowprec.targets import Target, available_cores, parse_target, runnable
from lowprec.vocabulary import PRECISIONS

TRIAL_SECONDS = 60.0
"""After so long a trial is given up."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One trial to be made."""

    conv: Conv
    subject: str
    candidate: Candidate
    layers: int
    """So many layers of the model are of this shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a session did."""

    records: str
    done: int
    known: int
    left: int
    trials: tuple[Trial, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.status != RIGHT)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.records}: {self.done} trials in {self.seconds:.1f} s, {self.known} known before, {self.left} left"
        ]
        for trial in self.failed:
            name = named(trial.algorithm, trial.sizes)
            lines += [f"  {name} was {trial.status}: {trial.detail}"]
        return "\n".join(lines)


def tune(
    model: Any,
    *,
    precision: str = "fp32",
    recipe: Recipe | str | os.PathLike[str] | None = None,
    target: str = "native",
    records: str | os.PathLike[str],
    trials: int = DEFAULT_TRIALS,
    budget: float | None = None,
    input_shapes: Shapes | None = None,
    threads: int | None = None,
    rounding: str = "nearest",
    seed: int = 0,
    say: Say | None = None,
) -> Tuned:
    """Time the candidates of a model's convolutions, at most `trials` of them or for `budget` seconds."""
    if precision != "fp32":
        PRECISIONS.check(precision)
        raise Unsupported(f"tuning in precision {precision!r} is not built yet: use fp32")
    options = Options(
        precision=precision,
        recipe=as_recipe(recipe),
        target=target,
        threads=threads,
        rounding=rounding,
        seed=seed,
        input_shapes=input_shapes,
    )
    if trials < 0 or (budget is not None and not budget > 0):
        raise UsageError(f"trials is {trials}, budget {budget}: give a count of 0 or more, and seconds above 0")
    chosen, workers = runnable(parse_target(target)), threads or available_cores()
    with model_file(model) as path:
        layers = run_on_model("inspect", path, {"input_shapes": options.to_json()["input_shapes"]})["layers"]
    convs = Counter(strict_json.decode(Conv, layer["geometry"]) for layer in layers if is_conv(layer))
    tasks = tasks_of(convs, chosen, environment_of(chosen, workers))
    with Records(Path(records)) as store, Bench(target, workers) as bench:
        return run_session(store, tasks, bench, most=trials, budget=budget, say=say or (lambda _: None))


def is_conv(layer: Mapping[str, Any]) -> bool:
    """Whether a layer of `inspect` is a convolution that a kernel of ours computes."""
    return layer["geometry"] is not None and "kernel" in layer["geometry"] and not layer["obstacle"]


def run_session(
    store: Records, tasks: Sequence[Task], bench: "Bench", *, most: int, budget: float | None, say: Say
) -> Tuned:
    """What is not known yet, until `most` trials are made or the budget is spent."""
    known = {(trial.subject, trial.algorithm, trial.sizes) for trial in store.trials()}
    todo = [t for t in tasks if (t.subject, t.candidate.algorithm, t.candidate.sizes) not in known]
    began = time.monotonic()
    made: list[Trial] = []
    for task in todo[:most]:
        if budget is not None and time.monotonic() - began >= budget:
            break
        trial = bench.attempt(task)
        store.add([trial])
        made.append(trial)
        left = _left(len(made), min(most, len(todo)), time.monotonic() - began, budget)
        say(f"{len(made)} of {min(most, len(todo))} trials, {left:.0f} s left: {_outcome(store, task, trial)}")
    return Tuned(
        records=str(store.path),
        done=len(made),
        known=len(tasks) - len(todo),
        left=len(todo) - len(made),
        trials=tuple(made),
        seconds=time.monotonic() - began,
    )


def tasks_of(convs: Counter[Conv], target: Target, environment: Mapping[str, Any]) -> list[Task]:
    """Every trial of a model, those first that its time depends on most."""
    found = []
    for conv, count in convs.items():
        offered = tunable(conv, target)
        if len(offered) < 2:
            continue  # nothing to choose
        subject = subject_of(conv, environment)
        found += [Task(conv=conv, subject=subject, candidate=candidate, layers=count) for candidate in offered]
    weight = {task.subject: 0.0 for task in found}
    for task in found:
        weight[task.subject] = max(weight[task.subject], task.layers * min(task.candidate.cycles, 1e12))
    return sorted(found, key=lambda task: (-weight[task.subject], task.subject, task.candidate.cycles))


def _left(done: int, total: int, spent: float, budget: float | None) -> float:
    """Seconds, if the rest takes as long as what is done."""
    left = spent / done * (total - done)
    return left if budget is None else min(left, max(0.0, budget - spent))


def _outcome(store: Records, task: Task, trial: Trial) -> str:
    """What a trial came to, beside the layer's best so far."""
    took = f"{1e3 * trial.seconds:.3g} ms" if trial.seconds is not None else trial.status
    outcome = f"{describe(task.conv)}, {named(trial.algorithm, trial.sizes)} {took}"
    best = min((t for t in store.trials(task.subject) if t.seconds), key=lambda t: t.seconds or 0.0, default=None)
    if best is None or best == trial or best.seconds is None:
        return outcome
    return f"{outcome}, best {named(best.algorithm, best.sizes)} {1e3 * best.seconds:.3g} ms"


def _checked(line: bytes) -> dict[str, Any] | None:
    """A child's answer, if it is one."""
    try:
        answer = strict_json.loads(line)
    except ValueError:
        return None
    if not isinstance(answer, dict) or answer.get("status") not in (RIGHT, WRONG, FAILED):
        return None
    if answer["status"] != RIGHT:
        return {"status": answer["status"], "detail": str(answer.get("detail", ""))}
    seconds, error = answer.get("seconds"), answer.get("error")
    if not (isinstance(seconds, float) and seconds > 0 and isinstance(error, float) and error >= 0):
        return None
    return {"status": RIGHT, "seconds": seconds, "error": error}


class Bench:
    """The child that makes trials; a new one when it has died."""

    def __init__(self, target: str, threads: int) -> None:
        self._target, self._threads = target, threads
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="lowprec-tune-")
        self._log = Path(self._folder.name) / "log"

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def attempt(self, task: Task) -> Trial:
        """One trial, whatever becomes of it."""
        candidate = task.candidate
        request = {
            "conv": asdict(task.conv),
            "algorithm": candidate.algorithm,
            "sizes": list(candidate.sizes),
            "target": self._target,
            "threads": self._threads,
        }
        answer = self._ask(request)
        return Trial(subject=task.subject, algorithm=candidate.algorithm, sizes=candidate.sizes, **answer)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        line, late = exchange(self._child or self._start(), request, TRIAL_SECONDS)
        answer = _checked(line) if line and not late else None
        if answer is not None:
            return answer
        detail = self._end()
        if line and not late:
            said = shown(line.decode(errors="replace").strip())
            return {"status": FAILED, "detail": f"the trial answered {said}"}
        if late:
            return {"status": LATE, "detail": f"took longer than {TRIAL_SECONDS:g} s"}
        if "No module named" in detail:
            raise BuildFailed(f"trials cannot run here ({detail}): `lowprec doctor` may know more")
        return {"status": FAILED, "detail": detail}

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-m", "lowprec.trials"]
        pipe = subprocess.PIPE
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log)
        return self._child

    def _end(self) -> str:
        """Kill the child, if there is one; its last words."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.kill()
        child.communicate()
        return last_words(child.returncode, self._log.read_text(errors="replace"))
