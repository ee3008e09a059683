"""The wheelhouse holds what Lethe needs to run on the images' platform, hashes and all, and nothing that only development needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from deploy.docker import wheelhouse
from deploy.docker.build import wheelhouse_name


def names(entries: list[str]) -> set[str]:
    return {entry.split("==", maxsplit=1)[0] for entry in entries}


def test_cpu_images_get_what_runs_and_nothing_of_development() -> None:
    torch, rest = wheelhouse.chosen_entries("cpu")
    assert torch.startswith("torch==")
    assert {"fastapi", "diffusers", "minio", "psycopg-binary", "setuptools"} <= names(rest)
    assert not names(rest) & {"torch", "pytest", "ruff", "mypy", "moto", "ray", "pandas", "pip"}
    assert not [name for name in names(rest) if name.startswith("nvidia-")]


def test_every_entry_is_pinned_and_hashed() -> None:
    torch, rest = wheelhouse.chosen_entries("cuda")
    assert [entry for entry in [torch, *rest] if not re.match(r"[a-z0-9._-]+==\S+.*\\\n    --hash=sha256:", entry)] == []


def test_cuda_images_get_torchs_companions_too() -> None:
    cpu, cuda = (names(wheelhouse.chosen_entries(variant)[1]) for variant in ("cpu", "cuda"))
    assert cpu < cuda
    assert any(name.startswith("nvidia-") for name in cuda - cpu)


def test_extra_brings_what_it_needs() -> None:
    assert "ray" in names(wheelhouse.chosen_entries("cpu", extras=["ray"])[1])


def test_entry_for_another_platform_is_left_out(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# A remark.\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:aa\n"
        "Flask_Cors==6.0 ; python_full_version < '3.12' \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    )
    entries = wheelhouse.locked_entries(lock)
    assert list(entries) == ["flask-cors"]
    assert entries["flask-cors"].count("--hash=") == 2


def test_wheelhouse_is_fetched_again_only_where_the_list_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[list[str]] = []
    monkeypatch.setattr(wheelhouse, "ROOT", tmp_path)
    monkeypatch.setattr(wheelhouse, "WHEELHOUSE", tmp_path)
    monkeypatch.setattr(wheelhouse, "chosen_entries", lambda _variant, *, extras: ("torch\n", list(extras)))
    monkeypatch.setattr(wheelhouse, "download", lambda what, _folder: fetched.append(what))
    for extras in ("", "", "ray,otel", "otel,ray", ""):
        monkeypatch.setattr(sys, "argv", ["wheelhouse.py", "cpu", "--extras", extras])
        wheelhouse.main()
        assert (tmp_path / wheelhouse_name("cpu", extras) / "requirements.txt").exists(), "where the build looks for it"
    assert {folder.name for folder in tmp_path.iterdir()} == {"cpu", "cpu-otel-ray"}
    assert len(fetched) == 2 * 2, "torch, and the rest"
    (tmp_path / "cpu" / "requirements.txt").write_text("another lock")
    wheelhouse.main()
    assert len(fetched) == 3 * 2


@pytest.mark.parametrize(("variant", "build"), [("cpu", "7.0+cpu"), ("cuda", "7.0")])
def test_variant_gets_its_own_build_of_torch_wherever_pip_finds_the_other(
    variant: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for version in ("7.0", "7.0+cpu"):
        make_wheel(tmp_path, "torch", version)
    wheelhouse.fetch_torch("torch==7.0 \\\n    --hash=sha256:aa\n", tmp_path / "fetched", variant=variant)
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == [f"torch-{build}-py3-none-any.whl"]


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel that holds nothing."""
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{name}-{version}.dist-info/{file}", text)


def test_lock_that_lacks_something_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.txt", "torch-cuda.txt"):
        (tmp_path / name).write_text((wheelhouse.LOCKS / name).read_text())
    (tmp_path / "lock.txt").write_text(re.sub(r"(?m)^minio==", "minimum==", (wheelhouse.LOCKS / "lock.txt").read_text()))
    monkeypatch.setattr(wheelhouse, "LOCKS", tmp_path)
    with pytest.raises(ValueError, match=r"lacks minio; run make lock"):
        wheelhouse.chosen_entries("cpu")
