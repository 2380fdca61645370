"""The command line: `lowprec VERB`, results on stdout, one line on stderr for whatever goes wrong.

Only the verb that is asked for is imported, so that `--help` answers at once.
"""

import argparse
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lowprec.errors import EnvironmentMismatch, LowprecError, UsageError
from lowprec.options import DEFAULT_TRIALS, parse_duration, parse_names, parse_number, parse_shape, parse_whole
from lowprec.vocabulary import ALGORITHMS, PRECISIONS, ROUNDINGS, Vocabulary, suggestion

INTERRUPTED = 130
BUG = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a verb has to say: the JSON document, the same for people, and the exit code."""

    document: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb: the function of `lowprec.verbs` by the same name does it; `words` adds its options to a parser."""

    name: str
    help: str
    words: Callable[[argparse.ArgumentParser], None]


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints become `UsageError` and name the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see `{self.prog} --help`")

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args(words)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            hint = suggestion(unknown[0].partition("=")[0], known)
            raise UsageError(f"unknown argument {unknown[0]!r}{hint}: see `{self.prog} --help`")
        return namespace


def _no_words(_parser: argparse.ArgumentParser) -> None:
    """The verb takes nothing of its own."""


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")


def _artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="DIR", help="an artifact, as `lowprec compile -o DIR` makes it")


def _shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-shape",
        metavar="NAME:1x3x224x224",
        action="append",
        default=[],
        type=parse_shape,
        help="fix an input's shape; once per input with a symbolic one",
    )


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        metavar="N",
        type=lambda text: parse_whole(text, "--threads", least=1),
        help="threads to use (default: LOWPREC_NUM_THREADS, else every core allowed)",
    )


def _compiling(parser: argparse.ArgumentParser) -> None:
    """compile's options, which plan and bench share; those that serve what is not built yet are not shown."""
    parser.add_argument("--precision", metavar="NAME", default="fp32", help=_choices(PRECISIONS))
    parser.add_argument("--rounding", metavar="NAME", default="nearest", help=_choices(ROUNDINGS))
    parser.add_argument(
        "--algorithm", metavar="NAME", default="auto", help=f"for every layer it fits: {_choices(ALGORITHMS)}"
    )
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file of [[rule]] tables, one layer or operator each")
    parser.add_argument(
        "--target",
        metavar="NAME",
        default="native",
        help="native, x86-64, x86-64-v3, x86-64-v4, cascadelake, sapphirerapids, aarch64",
    )
    _threads(parser)
    _shapes(parser)
    parser.add_argument("--records", metavar="DB", help="times measured by `lowprec tune`, to choose algorithms by")
    parser.add_argument("--calibration", metavar="FILE", help="an .npz of samples, from which int8 takes its ranges")
    _bound(parser, "--min-sqnr", "auto: the least signal to noise ratio of every output, in decibels (default 30)")
    _bound(parser, "--max-ms", "auto: the longest a run may take, in milliseconds")


def _bound(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    parser.add_argument(option, metavar="N", type=lambda text: parse_number(text, option), help=what)


def _choices(vocabulary: Vocabulary) -> str:
    return vocabulary.listed


def _plan(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _compiling(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _shapes(parser)


def _compile(parser: argparse.ArgumentParser) -> None:
    _plan(parser)
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the artifact's directory")
    parser.add_argument("--write-recipe", metavar="FILE", help="where the layers' formats are written, as TOML")


def _export(parser: argparse.ArgumentParser) -> None:
    _plan(parser)
    parser.add_argument("-o", "--output", metavar="OUT.onnx", required=True, help="the file to write")


def _run(parser: argparse.ArgumentParser) -> None:
    _artifact(parser)
    parser.add_argument("--inputs", metavar="IN.npz", help="the inputs by name (default: seeded random ones)")
    parser.add_argument("--outputs", metavar="OUT.npz", help="where the outputs are written by name")
    _threads(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    _artifact(parser)
    parser.add_argument("--model", metavar="MODEL", required=True, help="the ONNX file it was compiled from")
    parser.add_argument("--inputs", metavar="IN.npz", help="the inputs by name (default: seeded random ones)")
    parser.add_argument(
        "--min-sqnr",
        metavar="DB",
        type=lambda text: parse_number(text, "--min-sqnr"),
        help="the least signal to noise ratio of every output, in place of the precision's own bound",
    )
    _threads(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="DIR_OR_MODEL", help="an artifact, or an ONNX file to compile first")
    parser.add_argument("--model", metavar="MODEL", help="the ONNX file of DIR, for the engines beside it")
    parser.add_argument(
        "--against",
        metavar="NAMES",
        default=(),
        type=parse_names,
        help="engines beside it, in fp32 or as told: onnxruntime,openvino:bf16,onnxruntime:int8",
    )
    parser.add_argument(
        "--duration",
        metavar="S",
        default=5.0,
        type=lambda text: parse_number(text, "--duration"),
        help="seconds to measure each engine for (default 5)",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="then, as long again, each layer's time beside the least that a direct algorithm could take here",
    )
    _compiling(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    _artifact(parser)
    parser.add_argument("--model", metavar="MODEL", help="the ONNX file it was compiled from")
    parser.add_argument("-o", "--output", metavar="FILE.html", help="the report (default: DIR with .html behind)")
    _threads(parser)


def _tune(parser: argparse.ArgumentParser) -> None:
    _plan(parser)
    parser.add_argument(
        "--trials",
        metavar="N",
        default=DEFAULT_TRIALS,
        type=lambda text: parse_whole(text, "--trials"),
        help="at most so many (default %(default)s)",
    )
    parser.add_argument(
        "--budget", metavar="10m", type=lambda text: parse_duration(text, "--budget"), help="stop after: 90s, 10m, 2h"
    )
    parser.add_argument("--tracker", help=argparse.SUPPRESS)


def _db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "merge", "prune", "check"), help="what to do with the records")
    parser.add_argument("records", metavar="DB", help="a file of `lowprec tune`")
    parser.add_argument("others", metavar="OTHER", nargs="*", help="merge: files whose trials DB takes over")


VERBS = (
    Verb(name="doctor", help="what this machine and installation can do, and what to mend", words=_no_words),
    Verb(name="inspect", help="a model's layers: shapes, parameters, operations, memory", words=_inspect),
    Verb(name="plan", help="what compile would do with each layer, and why", words=_plan),
    Verb(name="compile", help="make an artifact of a model", words=_compile),
    Verb(name="export", help="the quantized model as standard ONNX (QDQ), which others run too", words=_export),
    Verb(name="run", help="run an artifact", words=_run),
    Verb(name="verify", help="hold an artifact against ONNX Runtime, layer by layer", words=_verify),
    Verb(name="bench", help="measure an artifact or model, beside other engines if asked", words=_bench),
    Verb(name="tune", help="time each convolution's algorithms on this machine, and keep the records", words=_tune),
    Verb(name="db", help="list, merge, prune or check records of tuning", words=_db),
    Verb(name="report", help="one HTML file: plan, time and error per layer, environment", words=_report),
)
NAMES = Vocabulary(kind="verb", built=tuple(verb.name for verb in VERBS), planned=())


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line asks; the exit code says how it went."""
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    verbose = any(word in ("-v", "--verbose") for word in words)
    try:
        return _answer(words)
    except BrokenPipeError:  # the reader of stdout has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:  # the outermost frame: what nobody expected is a bug of ours
        code, message = explain(error)
        if code == BUG:
            from lowprec.bundles import write_bundle

            message += f"; please report it with {write_bundle(error, words)}"
        if verbose:
            traceback.print_exception(error, file=sys.stderr)
        print(f"lowprec: {one_line(message)}", file=sys.stderr)
        return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what to tell the user."""
    match error:
        case LowprecError():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case ModuleNotFoundError():
            advice = "run `lowprec doctor`, or pip install 'lowprec[bench]'"
            return EnvironmentMismatch.exit_code, f"{error.name} is not installed: {advice}"
        case MemoryError():
            return EnvironmentMismatch.exit_code, "there is not enough memory: free some, or use a larger machine"
        case OSError(filename=str(path)):
            return UsageError.exit_code, f"{path!r} cannot be used ({error.strerror}): give another place"
        case OSError():
            return EnvironmentMismatch.exit_code, f"the system refuses ({error}): `lowprec doctor` may know more"
        case _:
            return BUG, f"internal error: {type(error).__name__}: {error}"


def _answer(words: Sequence[str]) -> int:
    if not words:
        raise UsageError(f"no verb was given: `lowprec --help` lists {', '.join(NAMES.built)}")
    if words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(importlib.import_module("lowprec").__version__)
        return 0
    if words[0].startswith("-"):
        raise UsageError(f"option {words[0]!r} stands before the verb: write `lowprec VERB {words[0]}`")
    verb = next(verb for verb in VERBS if verb.name == NAMES.check(words[0]))
    arguments = _parser(verb).parse_all(words[1:])
    arguments.command = list(words)
    _route_warnings(quiet=arguments.quiet)
    answer: Answer = getattr(importlib.import_module("lowprec.verbs"), verb.name)(arguments)
    document = {"schema": f"lowprec.{verb.name}/1", **answer.document}
    print(json.dumps(document, allow_nan=False) if arguments.json else screened(answer.text), flush=True)
    return answer.exit_code


def help_text() -> str:
    """`lowprec --help`."""
    verbs = "\n".join(f"  {verb.name:<9}{verb.help}" for verb in VERBS)
    return (
        "usage: lowprec VERB ...\n\nTrained ONNX networks to fast, verified CPU artifacts.\n\n"
        f"{verbs}\n\n"
        "Every verb takes --json (one JSON document on stdout), -v, -q and --seed N.\n"
        "`lowprec VERB --help` shows the rest; `lowprec --version` the version."
    )


def _parser(verb: Verb) -> Parser:
    parser = Parser(prog=f"lowprec {verb.name}", description=f"{verb.help}.".capitalize(), allow_abbrev=False)
    verb.words(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="details and tracebacks on stderr")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no warnings on stderr")
    parser.add_argument(
        "--seed",
        metavar="N",
        default=0,
        type=lambda text: parse_whole(text, "--seed"),
        help="for everything random (default 0)",
    )
    return parser


def _route_warnings(*, quiet: bool) -> None:
    """Our own warnings are lines on stderr; other libraries' are nobody's business here."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"lowprec: warning: {one_line(str(message))}", file=sys.stderr)

    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    if not quiet:
        warnings.filterwarnings("always", category=UserWarning, module=r"lowprec(\..*)?$")
    warnings.showwarning = show


def one_line(text: str) -> str:
    """The text in one printable line: names in a stranger's model may hold anything, terminal codes included."""
    shown = screened(" ".join(text.split()))
    return shown if len(shown) <= 1000 else f"{shown[:990]} [...]"


def screened(text: str) -> str:
    """The text with everything that does not print, but the ends of lines, spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
