"""A share of the malformed corpus through the real path, a child process each: refused in one line, in time, in memory.

    python -m tests.corpus.refusing SHARE OF FOLDER        prints a JSON list of complaints, empty when all is well

A process of its own, because the system tells a process its children's largest memory only for all of them together.
Other work may run beside this: what took longer than it may is tried again, and then the child's processor time counts.
"""

import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lowprec import isolation, nursery
from lowprec.errors import LowprecError
from tests.corpus import all_cases
from tests.corpus.case import Case

SECONDS = 5.0
KIBIBYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    exit_code: int
    message: str
    seconds: float

    def complaint(self) -> str:
        """What is wrong with how the case ended; "" when nothing is."""
        wrong = []
        if self.exit_code != self.case.exit_code:
            wrong.append(f"exit {self.exit_code} instead of {self.case.exit_code}")
        if self.case.mentions not in self.message:
            wrong.append(f"{self.case.mentions!r} is not named")
        if not self.message.isprintable() or len(self.message) > 600 or "Traceback" in self.message:
            wrong.append("the message is not one short printable line")
        if self.seconds > SECONDS:
            wrong.append(f"it took {self.seconds:.1f} s")
        return f"{self.case}: {', '.join(wrong)}; message: {self.message[:300]}" if wrong else ""


def refuse(case: Case, folder: Path) -> Outcome:
    folder.mkdir(parents=True)
    path = case.write(folder)
    start = time.monotonic()
    try:
        isolation.run("inspect", {"model": str(path), "input_shapes": {}}, model_bytes=path.stat().st_size)
    except LowprecError as error:
        return Outcome(case, error.exit_code, str(error), time.monotonic() - start)
    return Outcome(case, 0, "accepted", time.monotonic() - start)


def again(outcome: Outcome, folder: Path) -> Outcome:
    nursery.close()  # which makes its children's times known
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    repeated = refuse(outcome.case, folder / "again" / str(time.monotonic_ns()))
    nursery.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return replace(repeated, seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    share, of, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    cases = all_cases()[share::of]
    outcomes = [refuse(case, folder / str(index)) for index, case in enumerate(cases)]
    outcomes = [again(outcome, folder) if outcome.seconds > SECONDS else outcome for outcome in outcomes]
    complaints = [complaint for outcome in outcomes if (complaint := outcome.complaint())]
    nursery.close()
    if resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > KIBIBYTES:
        complaints.append("a child took more than 1 GB")
    print(json.dumps(complaints))
    return 0


if __name__ == "__main__":
    sys.exit(main())
