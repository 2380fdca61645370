"""AttributeProto -> plain data."""

from onnx import AttributeProto, NodeProto

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.external import refuse_external
from lowprec.frontend.graph import Attribute
from lowprec.frontend.limits import Limits
from lowprec.frontend.naming import label, quote
from lowprec.frontend.tensors import check_tensor, to_array


def attributes_of(node: NodeProto, limits: Limits) -> dict[str, Attribute]:
    """The node's attributes by name; graphs, sparse tensors and types are refused."""
    return {attribute.name: _value(attribute, node, limits) for attribute in node.attribute}


def _value(attribute: AttributeProto, node: NodeProto, limits: Limits) -> Attribute:
    what = f"{label(node)}: attribute {quote(attribute.name)}"
    longest = max(len(attribute.ints), len(attribute.floats), len(attribute.strings))
    if longest > limits.items:
        raise InvalidModel(f"{what} has {longest} items; at most {limits.items} are accepted")
    kinds = AttributeProto.AttributeType
    match attribute.type:
        case kinds.INT:
            return int(attribute.i)
        case kinds.FLOAT:
            return float(attribute.f)
        case kinds.STRING:
            return _text(attribute.s, what)
        case kinds.INTS:
            return tuple(int(value) for value in attribute.ints)
        case kinds.FLOATS:
            return tuple(float(value) for value in attribute.floats)
        case kinds.STRINGS:
            return tuple(_text(value, what) for value in attribute.strings)
        case kinds.TENSOR:
            refuse_external(attribute.t, what)
            check_tensor(attribute.t, None, what, limits)
            return to_array(attribute.t, None, what)
        case kinds.UNDEFINED:
            raise InvalidModel(f"{what} has no type")
        case _:
            raise Unsupported(f"{what} is a {kinds.Name(attribute.type).lower()}, which is not supported here")


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{what} is no UTF-8 text") from error
