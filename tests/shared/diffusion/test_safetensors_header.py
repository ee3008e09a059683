"""Headers of safetensors files: sound ones are read, and every other is refused without loading anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from shared.diffusion import safetensors_header
from shared.diffusion.safetensors_header import SafetensorsError, TensorFacts, read_header

if TYPE_CHECKING:
    from pathlib import Path

SOUND: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def written(path: Path, header: Any, data: bytes = bytes(32), *, length: int | None = None) -> Path:
    """A file with this header, whatever it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_header_tells_types_and_shapes(tmp_path: Path) -> None:
    tensors = {"x": torch.zeros(2, 3), "half": torch.zeros(4, dtype=torch.bfloat16), "scalar": torch.zeros((), dtype=torch.int64)}
    save_file(tensors, tmp_path / "w.safetensors", {"format": "pt"})
    assert read_header(tmp_path / "w.safetensors", "w") == {
        "x": TensorFacts("F32", (2, 3)),
        "half": TensorFacts("BF16", (4,)),
        "scalar": TensorFacts("I64", ()),
    }
    assert set(read_header(written(tmp_path / "made", SOUND), "made")) == {"a", "b"}


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff\xff\xff",
        b"[" * 5000,
        b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, "a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}',
        SOUND | {"c": 7},
        SOUND | {"b": {"dtype": "F31", "shape": [4], "data_offsets": [24, 32]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [-4], "data_offsets": [24, 32]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 32]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [True, 4], "data_offsets": [24, 32]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [1] * 8 + [4], "data_offsets": [24, 32]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [20, 28]}},
        SOUND | {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [24]}},
        SOUND | {"b": {"dtype": ["BF16"], "shape": [4], "data_offsets": [24, 32]}},
        {"a": SOUND["a"]},
        {},
    ],
)
def test_header_that_does_not_fit_its_file_is_refused_by_name(tmp_path: Path, header: Any) -> None:
    with pytest.raises(SafetensorsError, match=r"^unet/w: "):
        read_header(written(tmp_path / "w", header), "unet/w")


@pytest.mark.parametrize("content", [b"", b"1234567", (2**63).to_bytes(8, "little") + b"{}", bytes(8) + b"{}", b"\x80\x04\x95pickle.."])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(SafetensorsError, match="not a safetensors file"):
        read_header(tmp_path / "w", "w")


def test_header_above_its_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_HEADER_BYTES", 64)
    with pytest.raises(SafetensorsError, match="more than 64 bytes"):
        read_header(written(tmp_path / "w", SOUND), "w")


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    try:
        read_header(path, "any")
    except SafetensorsError:
        return
