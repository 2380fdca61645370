"""Weights in files of their own: found by us, in the model's folder, never outside it, never through a link.

Reference: https://onnx.ai/onnx/repo-docs/ExternalData.html. Each component of a location is opened relative to the one
before without following links, for the check and again for the read, so what was checked is what is read.
"""

import os
import stat
from dataclasses import replace
from pathlib import Path, PurePosixPath

from onnx import TensorProto

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.limits import Limits, limits_for
from lowprec.frontend.naming import quote
from lowprec.frontend.reading import Payload, Source

LONGEST_NUMBER = 19


def locate_external(source: Source, limits: Limits | None) -> Source:
    """The source with the place of every external initializer, checked against the files' sizes."""
    folder = source.path.parent
    payloads = dict(source.payloads)
    sizes: dict[str, int] = {}
    for tensor in source.proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            what = f"initializer {quote(tensor.name)}"
            if tensor.HasField("raw_data") or tensor.name in source.payloads:
                raise InvalidModel(f"{what} has its data twice: in the model and outside it")
            payloads[tensor.name] = _payload(tensor, folder, what, sizes)
    if not sizes:
        return source
    total = source.file_bytes + sum(sizes.values())
    return replace(source, payloads=payloads, file_bytes=total, limits=limits or limits_for(total))


def _payload(tensor: TensorProto, folder: Path, what: str, sizes: dict[str, int]) -> Payload:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            raise InvalidModel(f"{what}: external data names its {quote(entry.key)} twice")
        entries[entry.key] = entry.value
    parts = location_parts(entries.get("location", ""), what)
    size = _size(folder, parts, what)
    sizes["/".join(parts)] = size
    offset = _number(entries.get("offset", "0"), "offset", what)
    length = _number(entries.get("length", str(max(size - offset, 0))), "length", what)
    if offset + length > size:
        raise InvalidModel(
            f"{what}: its data is bytes {offset} to {offset + length} of {quote('/'.join(parts))}, which has {size}"
        )
    return Payload(path=folder.joinpath(*parts), offset=offset, length=length, folder=folder)


def location_parts(location: str, what: str) -> tuple[str, ...]:
    """The components of a location that stays below the model's folder."""
    path = PurePosixPath(location)
    if not location or "\0" in location:
        raise InvalidModel(f"{what}: external data names no file")
    if path.is_absolute() or "\\" in location or location[1:2] == ":":
        raise InvalidModel(
            f"{what}: external data lies at {quote(location)}; only a path inside the model's folder is read"
        )
    if ".." in path.parts or not path.parts:
        raise InvalidModel(f"{what}: external data at {quote(location)} leads out of the model's folder")
    return path.parts


def _number(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise InvalidModel(f"{what}: external data has {key} {quote(text)}; a whole number of bytes is needed")
    return int(text)


def _size(folder: Path, parts: tuple[str, ...], what: str) -> int:
    descriptor = open_inside(folder, parts, what)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def open_inside(folder: Path, parts: tuple[str, ...], what: str) -> int:
    """A descriptor of a regular file below `folder`, no component of whose path is a link."""
    shown = quote("/".join(parts))
    current = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            kind = os.O_NONBLOCK if last else os.O_DIRECTORY
            following = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=current)
            os.close(current)
            current = following
        if not stat.S_ISREG(os.fstat(current).st_mode):
            raise InvalidModel(f"{what}: external data {shown} is not a regular file")
        return current
    except FileNotFoundError as error:
        os.close(current)
        raise InvalidModel(f"{what}: external data {shown} does not exist beside the model") from error
    except OSError as error:
        os.close(current)
        raise InvalidModel(
            f"{what}: external data {shown} cannot be opened without following a link ({error.strerror})"
        ) from error
    except InvalidModel:
        os.close(current)
        raise


def refuse_external(tensor: TensorProto, what: str) -> None:
    """Tensors that are no initializer of the model itself must be in its file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise Unsupported(f"{what} is kept outside the file; only the model's own initializers may be")
