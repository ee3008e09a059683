"""What a safetensors file says it holds, read without loading it: the header is judged by content and within bounds.

Layout (github.com/huggingface/safetensors): 8 bytes of little-endian header length, a JSON object {name: {dtype, shape,
data_offsets}}, then the data without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.errors import InvalidRequestError

MAX_HEADER_BYTES: Final = 16 * 2**20  # Stable Diffusion's largest has a hundredth of it
MAX_DIMENSIONS: Final = 8
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


class SafetensorsError(InvalidRequestError):
    """A file is not what a safetensors file must be."""


@dataclass(frozen=True)
class TensorFacts:
    """A tensor's type as the format names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path, name: str) -> dict[str, TensorFacts]:
    """The tensors of a file; SafetensorsError, which calls the file `name`, when it is not a sound safetensors file."""
    with path.open("rb") as source:
        size = source.seek(0, 2)
        source.seek(0)
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise SafetensorsError(f"{name}: not a safetensors file, or one with a header of more than {MAX_HEADER_BYTES} bytes")
        text = source.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"{name}: the safetensors header is no JSON object") from error
    if not isinstance(header, dict):
        raise SafetensorsError(f"{name}: the safetensors header is no JSON object")
    header.pop("__metadata__", None)
    placed = sorted((_placed(entry, name) for entry in header.items()), key=lambda item: item[2])
    end = 0
    for _, _, begin, after in placed:
        if begin != end:
            raise SafetensorsError(f"{name}: tensors overlap or leave gaps")
        end = after
    if end != size - 8 - length:
        raise SafetensorsError(f"{name}: the header tells of {end} bytes of tensors, the file has {size - 8 - length}")
    return {tensor: facts for tensor, facts, _, _ in placed}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _placed(entry: tuple[str, Any], name: str) -> tuple[str, TensorFacts, int, int]:
    """A tensor's name, facts, first byte and the byte behind its last."""
    tensor, told = entry
    try:
        dtype, shape, (begin, after) = told["dtype"], told["shape"], told["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, begin, after)) and len(shape) <= MAX_DIMENSIONS
        sound = sound and after - begin == math.prod(shape) * DTYPE_BYTES[dtype]
    except (TypeError, KeyError, ValueError) as error:
        raise SafetensorsError(f"{name}: the header's entry {tensor[:80]!r} cannot be read") from error
    if not sound:
        raise SafetensorsError(f"{name}: the header's entry {tensor[:80]!r} does not have the bytes that its type and shape need")
    return tensor, TensorFacts(dtype, tuple(shape)), begin, after
