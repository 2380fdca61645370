"""A worker that ends badly, for the tests of isolation and of its nursery: the task says how."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

from lowprec import nursery

prepared: list[str] = []


def main(task: str, answer: int, place: int) -> int:
    channel = os.fdopen(answer, "w")
    request = json.load(sys.stdin)
    print("printed on stdout")
    print("printed on stderr", file=sys.stderr, flush=True)

    def say(**message: object) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    os.pwrite(place, b"Conv node 'conv1'", 0)
    say(stage=request["stage"])
    say(notice="half way")
    if task == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif task == "leave":
        os._exit(3)
    elif task == "sleep":
        time.sleep(600)
    elif task == "orphan":
        say(notice=str(subprocess.Popen(["sleep", "600"]).pid))
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "torn":
        channel.write('{"result": {"a"')
        channel.flush()
        os._exit(0)
    limits, mask = resource.getrlimit(resource.RLIMIT_CORE), os.umask(0)
    inherited = {"folder": os.getcwd(), "mask": mask, "limits": limits, "word": os.environ.get("WORD")}
    own = {"pid": os.getpid(), "nursery": os.getppid(), "open": sorted(map(int, os.listdir("/proc/self/fd")))}
    say(result={"threads": os.environ["OPENBLAS_NUM_THREADS"], "prepared": prepared, **inherited, **own})
    return 0


if __name__ == "__main__":
    nursery.IDLE = float(os.environ.get("IDLE", nursery.IDLE))
    nursery.serve(main, prepared.append)
