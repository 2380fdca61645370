"""A worker that ends badly, for the tests of isolation: the task says how."""

import json
import os
import signal
import sys
import time


def main() -> None:
    task, channel = sys.argv[1], os.fdopen(int(sys.argv[2]), "w")
    request = json.load(sys.stdin)
    print("printed on stdout")
    print("printed on stderr", file=sys.stderr, flush=True)

    def say(**message: object) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    os.pwrite(int(sys.argv[3]), b"Conv node 'conv1'", 0)
    say(stage=request["stage"])
    say(notice="half way")
    if task == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif task == "leave":
        os._exit(3)
    elif task == "sleep":
        time.sleep(600)
    elif task == "torn":
        channel.write('{"result": {"a"')
        channel.flush()
        os._exit(0)
    say(result={"pid": os.getpid(), "threads": os.environ["OPENBLAS_NUM_THREADS"]})


if __name__ == "__main__":
    main()
