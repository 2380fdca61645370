"""Element types: every operand must be of a type that the operator's schema allows, and bind its type variable once.

onnx's shape inference does not look at this: it types Conv(int32) and Add(float, int64) without a word.
"""

from collections.abc import Mapping
from functools import lru_cache

from onnx import defs

from lowprec.frontend.subject import Subject
from lowprec.frontend.tensors import onnx_type_name


def check_element_types(subject: Subject, schema: defs.OpSchema) -> None:
    """Refuses an operand whose type the operator does not take, or that contradicts an earlier operand's."""
    bound: dict[str, str] = {}
    allowed = _allowed(schema.name, schema.since_version, schema.domain)
    for position, name in enumerate(subject.node.input):
        if not name:
            continue
        formal = schema.inputs[min(position, len(schema.inputs) - 1)] if schema.inputs else None
        if formal is None:
            subject.refuse(f"the operator takes no inputs, found {len(subject.node.input)}")
        found = onnx_type_name(subject.types[name].dtype)
        if found not in allowed.get(formal.type_str, frozenset((formal.type_str,))):
            subject.refuse(f"input {position} ('{formal.name}') is {subject.types[name].dtype}, which it does not take")
        if formal.is_homogeneous and bound.setdefault(formal.type_str, found) != found:
            subject.refuse(
                f"input {position} ('{formal.name}') is {subject.types[name].dtype}, but an input of the same type "
                f"is {bound[formal.type_str].removeprefix('tensor(').removesuffix(')')}"
            )


@lru_cache(maxsize=1024)
def _allowed(name: str, version: int, domain: str) -> Mapping[str, frozenset[str]]:
    schema = defs.get_schema(name, version, domain)
    return {rule.type_param_str: frozenset(rule.allowed_type_strs) for rule in schema.type_constraints}
