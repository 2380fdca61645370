"""onnx's own node tests through lowprec, beside ONNX Runtime and plain TVM (`from_onnx` and `tvm.compile`).

    python -m benchmarks.conformance --against onnxruntime,tvm --json benchmarks/results/conformance.json

Each case runs in a child process, so that a crash is one case's failure and not the run's. Answers are kept in
build/conformance/ENGINE.jsonl with the version of the code that gave them: a run that was broken off goes on where
it stopped, and the peers run once. Prints the counts by family, what plain TVM passes and we do not, and every
wrong answer or crash of ours.
"""

import argparse
import fnmatch
import hashlib
import importlib.metadata
import json
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from benchmarks.conformance_worker import CACHE, CRASHED, PASSED, UNSUPPORTED, WRONG, load_cases, model_of

ROOT = Path(__file__).resolve().parents[1]
OURS = "lowprec"
PEERS = ("onnxruntime", "tvm")
LOCK = Lock()
VERDICTS = (PASSED, UNSUPPORTED, WRONG, CRASHED)
CASE_SECONDS = 300
OTHER = "everything else"
FAMILY_OPERATORS = {
    "convolution": "Conv ConvTranspose DeformConv ConvInteger QLinearConv CausalConvWithState",
    "pooling": "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxUnpool MaxRoiPool",
    "Gemm": "Gemm",
    "MatMul": "MatMul MatMulInteger QLinearMatMul",
    "normalization": "BatchNormalization InstanceNormalization LayerNormalization GroupNormalization "
    "RMSNormalization LRN MeanVarianceNormalization LpNormalization",
    "padding": "Pad",
    "resize": "Resize Upsample",
    "activation": "Relu LeakyRelu PRelu Elu Selu Celu Gelu Mish Swish HardSigmoid HardSwish Sigmoid Tanh Softplus "
    "Softsign Softmax LogSoftmax Hardmax ThresholdedRelu Shrink Clip Erf",
    "reduction": "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin",
    "quantization": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
}
FAMILIES = {name: frozenset(operators.split()) for name, operators in FAMILY_OPERATORS.items()}
MAY_BE_LOST = ("sequence", "optional", "compress", "nonzero", "unique", "identity_opt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    op: str


def list_cases(seed: int) -> list[Case]:
    """Names and operators. An expanded function test counts to the operator that it expands."""
    cases = load_cases(seed)
    known = {name: model_of(case).graph.node[0].op_type for name, case in cases.items()}
    return [Case(name=name, op=known.get(name.partition("_expanded")[0], known[name])) for name in cases]


def family_of(case: Case) -> str:
    return next((name for name, ops in FAMILIES.items() if case.op in ops), OTHER)


def version_of(engine: str) -> str:
    """What an answer depends on beside the case: the peer's release, or every line of our own code."""
    packages = {"tvm": "apache-tvm"}
    if engine in PEERS:
        return importlib.metadata.version(packages.get(engine, engine))
    digest = hashlib.sha256()
    for folder in ("lowprec/frontend",) if engine == "relax" else ("lowprec", "passes", "schedules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Child:
    """One worker process; `ask` gives a verdict whatever happens to it."""

    def __init__(self, engine: str, seed: int, threads: int) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.conformance_worker",
            engine,
            "--seed",
            str(seed),
            "--threads",
            str(threads),
        ]
        self.log = (CACHE / f"{engine}.log").open("ab")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0, cwd=ROOT
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._stdout, selectors.EVENT_READ)
        if self._read(CASE_SECONDS) is None:
            raise SystemExit(f"{engine}: the worker does not start; see {self.log.name}")

    @property
    def _stdout(self):  # type: ignore[no-untyped-def]
        assert self.process.stdout is not None
        return self.process.stdout

    def _read(self, seconds: float) -> str | None:
        """A line, "" at the end of the stream, None when the time is over."""
        line = b""
        while not line.endswith(b"\n"):
            if not self.selector.select(seconds):
                return None
            chunk = self._stdout.read(65536)
            if not chunk:
                return ""
            line += chunk
        return line.decode()

    def ask(self, name: str) -> tuple[str, str]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n".encode())
        line = self._read(CASE_SECONDS)
        if line:
            answer = json.loads(line)
            return answer["verdict"], answer["note"]
        self.close(kill=line is None)
        return CRASHED, f"no answer in {CASE_SECONDS} s" if line is None else f"exit {self.process.returncode}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self, *, kill: bool = True) -> None:
        if kill:
            self.process.kill()
        self.process.wait()
        self.log.close()


def known_answers(path: Path, key: str) -> dict[str, tuple[str, str]]:
    """Earlier answers of the same version, threads and seed. A torn last line is no answer."""
    answers: dict[str, tuple[str, str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["key"] == key:
            answers[record["case"]] = (record["verdict"], record["note"])
    return answers


def ask_all(engine: str, names: Sequence[str], seed: int, threads: int) -> Iterator[tuple[str, str, str]]:
    child: Child | None = None
    for name in names:
        if child is None or not child.alive:
            child = Child(engine, seed, threads)
        yield (name, *child.ask(name))
    if child is not None:
        child.close()


def run_engine(engine: str, cases: Sequence[Case], options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Every case's verdict, asking only for those not known yet, `jobs` children at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{engine}.jsonl"
    key = f"{version_of(engine)}/seed={options.seed}/threads={options.threads}"
    answers = known_answers(path, key)
    missing = [case.name for case in cases if case.name not in answers]
    shards = [missing[start :: options.jobs] for start in range(options.jobs)]
    with path.open("a") as lines, ThreadPoolExecutor(options.jobs) as pool:

        def work(shard: Sequence[str]) -> None:
            for name, verdict, note in ask_all(engine, shard, options.seed, options.threads):
                record = {"key": key, "case": name, "verdict": verdict, "note": note}
                with LOCK:
                    answers[name] = (verdict, note)
                    print(json.dumps(record), file=lines, flush=True)

        list(pool.map(work, shards))
    return {case.name: answers[case.name] for case in cases}


def print_families(cases: Sequence[Case], verdicts: Mapping[str, Mapping[str, tuple[str, str]]]) -> None:
    engines = list(verdicts)
    print(f"{'family':<16}{'cases':>6}" + "".join(f"{engine:>13}" for engine in engines) + "   of ONNX Runtime's")
    for family in [*FAMILIES, OTHER]:
        names = [case.name for case in cases if family_of(case) == family]
        passed = {engine: {name for name in names if verdicts[engine][name][0] == PASSED} for engine in engines}
        peer = passed.get("onnxruntime", set())
        share = f"{100 * len(passed[OURS] & peer) / len(peer):17.1f} %" if peer and OURS in passed else ""
        print(f"{family:<16}{len(names):>6}" + "".join(f"{len(passed[e]):>13}" for e in engines) + share)
    for verdict in VERDICTS:
        counts = [sum(v == verdict for v, _ in verdicts[engine].values()) for engine in engines]
        print(f"{verdict:<16}{len(cases):>6}" + "".join(f"{count:>13}" for count in counts))


def lost_to(peer: str, verdicts: Mapping[str, Mapping[str, tuple[str, str]]]) -> list[str]:
    """What the peer passes and we do not."""
    return [
        name
        for name, (verdict, _) in verdicts.get(peer, {}).items()
        if verdict == PASSED and verdicts[OURS][name][0] != PASSED
    ]


def may_be_lost(name: str) -> bool:
    return any(word in name for word in MAY_BE_LOST)


def print_losses(verdicts: Mapping[str, Mapping[str, tuple[str, str]]]) -> None:
    ours = verdicts[OURS]
    for name in lost_to("tvm", verdicts):
        excuse = " (allowed)" if may_be_lost(name) else ""
        print(f"lost to plain TVM{excuse}: {name}: {ours[name][0]}: {ours[name][1]}")
    for name, (verdict, note) in ours.items():
        if verdict in (WRONG, CRASHED):
            print(f"{verdict}: {name}: {note}")


def summary(cases: Sequence[Case], verdicts: Mapping[str, Mapping[str, tuple[str, str]]]) -> dict[str, object]:
    """The small document that is committed: counts, and every case of ours that did not pass."""
    families = {
        family: {
            engine: sum(found[case.name][0] == PASSED for case in cases if family_of(case) == family)
            for engine, found in verdicts.items()
        }
        for family in [*FAMILIES, OTHER]
    }
    ours = verdicts.get(OURS, {})
    return {
        "schema": "lowprec.conformance/1",
        "cases": len(cases),
        "versions": {engine: version_of(engine) for engine in verdicts},
        "verdicts": {engine: dict(Counter(v for v, _ in found.values())) for engine, found in verdicts.items()},
        "passed_by_family": families,
        "lost_to_tvm": lost_to("tvm", verdicts) if ours else [],
        "lost_to_onnxruntime": lost_to("onnxruntime", verdicts) if ours else [],
        "wrong_or_crashed": {n: list(a) for n, a in ours.items() if a[0] in (WRONG, CRASHED)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="globs of case names, comma separated: 'test_conv*,test_gemm*'")
    parser.add_argument("--against", default="", help="peers, comma separated: onnxruntime,tvm")
    parser.add_argument("--engines", help="exactly these engines (default: lowprec and the peers)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, each in a process of its own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers = [name for name in options.against.split(",") if name]
    unknown = set(peers) - set(PEERS)
    if unknown:
        parser.error(f"--against {','.join(sorted(unknown))}: known peers are {', '.join(PEERS)}")
    engines = options.engines.split(",") if options.engines else [OURS, *peers]
    globs = options.only.split(",")
    cases = [case for case in list_cases(options.seed) if any(fnmatch.fnmatch(case.name, glob) for glob in globs)]
    verdicts = {engine: run_engine(engine, cases, options) for engine in engines}
    print_families(cases, verdicts)
    if OURS in verdicts:
        print_losses(verdicts)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(summary(cases, verdicts), indent=1) + "\n")


if __name__ == "__main__":
    main()
