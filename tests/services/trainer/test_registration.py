"""Registering data sets: what is committed, what is told about it, and that failure commits nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from services.trainer import film_pictures
from services.trainer.dataset_spec import DatasetSpec
from services.trainer.registration import register
from shared.catalog import Catalog, DatasetManifest, new_id, open_catalog
from shared.errors import DatasetError, JobCancelledError, UnavailableError
from shared.imaging.chexpert import COLUMNS
from shared.imaging.films import FilmFacts, FilmTable
from shared.imaging.prompts import normalise_prompt
from shared.jobs.context import JobInterruptedError
from shared.settings import Settings
from shared.storage import DirectoryStore
from tests.fixtures.processes import ROOT

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome

PHANTOM: dict[str, Any] = {
    "name": "phantom",
    "source": {"format": "phantom", "patients": 30},
    "image_size": 16,
    "prompt": {"template": "impression"},
    "control_fraction": 0.2,
    "canaries": {"count": 4, "repeats": 40},
}


class House:
    """A home with an import root, a catalog, and what jobs reported."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "imports"
        self.data.mkdir()
        self.settings = Settings(home=home, import_roots=str(self.data))
        self.catalog = Catalog(DirectoryStore(home / "store"), home / "cache")
        self.reports: list[tuple[int, int, str]] = []

    def register(self, spec: dict[str, Any], dataset_id: str | None = None) -> DatasetManifest:
        return register(
            DatasetSpec.model_validate(spec),
            dataset_id=dataset_id or new_id("dataset"),
            catalog=self.catalog,
            settings=self.settings,
            report=lambda step, total, message, /, **_values: self.reports.append((step, total, message)),
        )

    def films(self, manifest: DatasetManifest) -> FilmTable:
        return FilmTable(self.catalog.fetch(manifest))

    def chexpert(self, rows: int = 12, **columns: Callable[[int], str]) -> dict[str, Any]:
        """Write a small CheXpert folder, one film a patient, and return its spec."""
        folder = self.data / "set"
        with_defaults: dict[str, Callable[[int], str]] = {
            "Sex": lambda _: "Male",
            "Age": lambda n: str(40 + n),
            "Frontal/Lateral": lambda _: "Frontal",
            "AP/PA": lambda _: "AP",
            "Edema": lambda _: "1.0",
        } | columns
        folder.mkdir()
        with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            for n in range(rows):
                path = f"train/patient{n:05}/study1/view1_frontal.jpg"
                writer.writerow({"Path": f"set/{path}"} | {name: value(n) for name, value in with_defaults.items()})
                (folder / path).parent.mkdir(parents=True)
                pixels = np.random.default_rng(n).integers(0, 256, (20, 20), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / path)
        return {"name": "ward", "source": {"format": "chexpert", "uri": f"file://{folder}"}, "image_size": 16, "control_fraction": 0.25}

    def committed(self) -> list[str]:
        return [manifest.id for manifest in self.catalog.list("dataset", 10)[0]]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[House, DatasetManifest]:
    house = House(tmp_path_factory.mktemp("home"))
    return house, house.register(PHANTOM)


# ---------------------------------------------------------------- what is committed


def test_phantom_is_registered_through_its_folder(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    films = house.films(manifest).facts
    assert (house.home / "phantom/30-patients-32-pixels-seed-0/CheXpert-v1.0-small/train.csv").is_file()
    assert {film.view for film in films} == {"AP", "PA"}
    assert manifest.counts == {split: sum(film.split == split for film in films) for split in ("train", "control", "canary")}
    assert manifest.counts["canary"] == manifest.patients["canary"] == 4
    assert manifest.patients["control"] == 6
    assert manifest.prompt_uniqueness["distinct"] == manifest.prompt_uniqueness["rows_k1"] == len(films)
    assert manifest.prompt_uniqueness["patients_k1"] == len({film.patient for film in films})
    assert manifest.duplicates == 0
    assert house.committed() == [manifest.id]
    assert not (house.home / "registrations" / manifest.id).exists()


def test_control_patients_are_never_trained_on(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    films = house.films(manifest).facts
    sides = {name: {film.patient for film in films if film.fold == name} for name in ("", "calibration", "evaluation")}
    assert not sides[""] & (sides["calibration"] | sides["evaluation"])
    assert not sides["calibration"] & sides["evaluation"]
    assert len(sides["calibration"]) == len(sides["evaluation"]) == 3


def test_canaries_repeat_and_have_prompts_of_their_own(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    films = house.films(manifest).facts
    canaries = [film for film in films if film.split == "canary"]
    assert [film.repeats for film in canaries] == [40] * 4
    assert {film.repeats for film in films if film.split != "canary"} == {1}
    prompts = [normalise_prompt(film.prompt) for film in films]
    assert all(prompts.count(normalise_prompt(film.prompt)) == 1 for film in canaries)


def test_digest_is_that_of_the_picture(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    table = house.films(manifest)
    film = table.film(3)
    assert film.sha256 == hashlib.sha256(film.png).hexdigest()
    assert table.images([3]).shape == (1, 16, 16)


def test_progress_ends_where_it_said(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    reading = [(step, total) for step, total, message in house.reports if message == "reading films"]
    total = sum(manifest.counts.values())
    assert reading[-1] == (total, total)
    assert reading == sorted(reading)
    assert {message for _, _, message in house.reports} == {
        "drawing films",
        "reading the table of films",
        "reading films",
        "looking for copies",
        "storing the data set",
    }


# The demo's measured figures hang on these: what a phantom says and where its films go. (Their pictures: test_pixels.)
@pytest.mark.parametrize(
    ("template", "digest"),
    [
        ("impression", "d76baa29e436f5880e367333a958ca7b6c3a8992353227e48e08277a7a3f9d2a"),
        ("findings", "88a72557a7391de1acb32a9b266674d1569b230c54516f7a401bb40cf2f66913"),
        ("demographics", "726693d3d8f6b39d977d3d522ceb30acc665dd3e7fe06212d22be0e0859c2785"),
    ],
)
def test_phantom_says_and_splits_what_it_always_did(house: House, template: str, digest: str) -> None:
    spec = PHANTOM | {"prompt": {"template": template}, "canaries": PHANTOM["canaries"] if template == "impression" else None}
    told = hashlib.sha256()
    for film in house.films(house.register(spec)).facts:
        facts = (film.record, film.patient, film.study, film.view, film.prompt, sorted(film.labels.items()))
        told.update(repr((*facts, film.sex, film.age, film.split, film.fold, film.repeats)).encode())
    assert told.hexdigest() == digest


def test_same_seed_commits_the_same_files(phantom: tuple[House, DatasetManifest], house: House) -> None:
    again = house.register(PHANTOM)
    assert again.files == phantom[1].files
    assert house.register(PHANTOM | {"seed": 1}).files != again.files


def test_second_run_of_a_job_returns_the_first_ones_commit(phantom: tuple[House, DatasetManifest]) -> None:
    house, manifest = phantom
    reports = len(house.reports)
    assert house.register(PHANTOM, manifest.id) == manifest
    assert len(house.reports) == reports


def test_phantom_is_written_where_the_uri_says(house: House) -> None:
    house.register(PHANTOM | {"source": {"format": "phantom", "patients": 10, "uri": f"file://{house.data}/here"}, "canaries": None})
    assert (house.data / "here/CheXpert-v1.0-small/train.csv").is_file()


def test_chexpert_folder_is_registered(house: House) -> None:
    manifest = house.register(house.chexpert())
    assert manifest.counts == {"train": 9, "control": 3}
    assert manifest.patients == {"train": 9, "control": 3}
    assert manifest.prompt_uniqueness == {
        "distinct": 1,
        "rows": 12,
        "patients": 12,
        "rows_k1": 0,
        "patients_k1": 0,
        "rows_k5": 0,
        "patients_k5": 0,
        "rows_k10": 0,
        "patients_k10": 0,
    }
    assert manifest.labels == list(COLUMNS[5:])
    assert manifest.warnings == ["3 control films are too few to measure a false-positive rate of 1 %"]
    assert {film.prompt for film in house.films(manifest).facts} == {"chest X-ray, AP, edema"}


def test_uniqueness_counts_patients_not_rows(house: House) -> None:
    spec = house.chexpert(4, Age=lambda n: str(50 + (n > 1)))
    table = house.data / "set" / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, *[lines[3].replace(",51,", ",77,")] * 2]) + "\n")  # one more caption, of one patient, on two rows
    manifest = house.register(spec | {"prompt": {"template": "demographics"}, "control_fraction": 0.5})
    assert manifest.prompt_uniqueness["distinct"] == 3
    assert manifest.prompt_uniqueness["rows_k1"] == 2
    assert manifest.prompt_uniqueness["patients_k1"] == 1
    assert manifest.duplicates == 2


def test_warnings_tell_what_is_odd(house: House) -> None:
    spec = house.chexpert(12, Age=lambda n: "0" if n < 3 else str(40 + n), Sex=lambda n: "Male" if n % 2 else "Female")
    first, second = (house.data / "set" / f"train/patient{n:05}/study1/view1_frontal.jpg" for n in (5, 6))
    second.write_bytes(first.read_bytes())
    manifest = house.register(
        spec | {"prompt": {"template": "demographics"}, "canaries": {"count": 2, "repeats": 5}, "control_fraction": 0.0}
    )
    assert manifest.duplicates == 1
    assert manifest.warnings == [
        "1 films have the same pixels as another film",
        "1 films show the picture of another patient; look at them, for a name or a label may be wrong",
        "12 films have prompts of fewer than 5 patients",
        "3 films have no age",
        "0 control films are too few to measure a false-positive rate of 1 %",
        "2 films of patients are repeated for models to learn by heart; do not share a model trained on them",
    ]


def test_films_without_impression_are_left_out(house: House) -> None:
    spec = house.chexpert(5) | {"prompt": {"template": "impression"}, "control_fraction": 0.4}
    spec["source"] |= {"reports_csv": "reports.csv"}
    lines = [f"train/patient{n:05}/study1/view1_frontal.jpg,Edema {n}." for n in range(4)]
    (house.data / "set" / "reports.csv").write_text("\n".join(["path_to_image,section_impression", *lines]) + "\n")
    manifest = house.register(spec)
    assert sum(manifest.counts.values()) == 4
    assert manifest.warnings[0] == "1 films have no impression and were left out"


# ---------------------------------------------------------------- what is refused


def test_unreadable_image_commits_nothing(house: House) -> None:
    spec = house.chexpert()
    path = house.data / "set/train/patient00007/study1/view1_frontal.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"line 9: train/patient00007/study1/view1_frontal\.jpg is not a readable"):
        house.register(spec)
    assert house.committed() == []
    assert not any((house.home / "registrations").iterdir())


def test_more_canaries_than_unique_prompts_commit_nothing(house: House) -> None:
    with pytest.raises(DatasetError, match="1 canaries asked for, but only 0"):
        house.register(house.chexpert() | {"canaries": {"count": 1, "repeats": 40}})
    assert house.committed() == []


def test_cancelled_registration_commits_nothing(house: House) -> None:
    def cancel(_step: int, _total: int, message: str, /, **_values: float) -> None:
        if message == "reading films":
            raise JobCancelledError

    spec = DatasetSpec.model_validate(house.chexpert())
    with pytest.raises(JobCancelledError):
        register(spec, dataset_id=new_id("dataset"), catalog=house.catalog, settings=house.settings, report=cancel)
    assert house.committed() == []
    assert not any((house.home / "registrations").iterdir())


def test_impressions_without_reports_are_refused(house: House) -> None:
    with pytest.raises(DatasetError, match="no film has an impression"):
        house.register(house.chexpert() | {"prompt": {"template": "impression"}})


def test_missing_folder_is_named(house: House) -> None:
    spec = house.chexpert() | {"source": {"format": "chexpert", "uri": f"file://{house.data}/none"}}
    with pytest.raises(DatasetError, match="imports/none does not exist"):
        house.register(spec)


# ---------------------------------------------------------------- gates, from end to end


def test_gates_drop_what_they_find_and_list_it(house: House) -> None:
    spec = house.chexpert(12, Age=lambda n: str(40 + n // 6))
    first, second = (house.data / "set" / f"train/patient{n:05}/study1/view1_frontal.jpg" for n in (3, 8))
    second.write_bytes(first.read_bytes())
    gates = {"duplicates": {"action": "drop"}, "k_anonymity": {"k": 6, "action": "drop"}}
    manifest = house.register(spec | {"gates": gates, "prompt": {"template": "demographics"}})
    films = house.films(manifest)
    assert [film.patient for film in films] == [f"patient{n:05}" for n in range(6)]
    assert (manifest.left_out, sum(manifest.counts.values()), manifest.duplicates) == (6, 6, 1)
    assert manifest.gates["duplicates"] == {
        "action": "drop",
        "films": 1,
        "patients": 1,
        "dropped": 1,
        "first_lines": [10],
        "within_patient": 0,
        "across_patients": 1,
    }
    with (house.catalog.fetch(manifest) / "gate-findings.csv").open(newline="") as file:
        listed = [(row["gate"], row["outcome"], int(row["line"]), row["earlier_line"]) for row in csv.DictReader(file)]
    assert listed == [("duplicates", "dropped", 10, "5"), *[("k_anonymity", "dropped", line, "") for line in (8, 9, 11, 12, 13)]]


def test_copies_of_one_picture_never_part(house: House) -> None:
    spec = house.chexpert(40)
    paths = [house.data / "set" / f"train/patient{n:05}/study1/view1_frontal.jpg" for n in range(40)]
    for n in range(0, 40, 2):
        paths[n + 1].write_bytes(paths[n].read_bytes())
    films = house.films(house.register(spec | {"control_fraction": 0.4})).facts
    assert {film.split for film in films} == {"train", "control"}
    assert [film.split for film in films[0::2]] == [film.split for film in films[1::2]]
    assert [film.fold for film in films[0::2]] == [film.fold for film in films[1::2]]


def test_refused_data_set_commits_nothing(house: House) -> None:
    with pytest.raises(DatasetError, match=r"12 films have prompts of fewer than 5 patients; .* \(line 2, 3, 4"):
        house.register(house.chexpert() | {"gates": {"k_anonymity": {"action": "refuse"}}, "prompt": {"template": "demographics"}})
    assert house.committed() == []
    assert not any((house.home / "registrations").iterdir())


def test_prompts_are_measured_by_an_encoder(stocked_home: StockedHome) -> None:
    settings = Settings(home=stocked_home.folder)
    prompt = {"template": "impression", "encoder": stocked_home.model.id, "max_tokens": 20}
    with open_catalog(settings) as catalog:
        manifest = register(
            DatasetSpec.model_validate(PHANTOM | {"prompt": prompt, "canaries": None}),
            dataset_id=new_id("dataset"),
            catalog=catalog,
            settings=settings,
            report=lambda *_told, **_values: None,
        )
    result = manifest.gates["prompt_length"]
    assert result["limit"] == 20
    assert 0 < result["films"] <= sum(manifest.counts.values())  # type: ignore[operator]
    assert result["longest"] > 20  # type: ignore[operator]


# ---------------------------------------------------------------- attempts


KILLED = """
import json, os, signal, sys
from pathlib import Path
from services.trainer import film_pictures, registration
from services.trainer.dataset_spec import DatasetSpec
from shared.catalog import Catalog
from shared.settings import Settings
from shared.storage import DirectoryStore

home, spec, dataset_id, films = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
registration.rows_per_spool = lambda size: 10
film_pictures.FILMS_AT_ONCE = 5
reading = film_pictures.read_picture
read = 0

def counted(film, size):
    global read
    read += 1
    return reading(film, size)

film_pictures.read_picture = counted

def report(step, total, message, /, **values):
    if message == "reading films" and step == films:
        os.kill(os.getpid(), signal.SIGKILL)

manifest = registration.register(
    DatasetSpec.model_validate(spec), dataset_id=dataset_id, catalog=Catalog(DirectoryStore(home / "store"), home / "cache"),
    settings=Settings(home=home, import_roots=str(home / "imports")), report=report,
)
print(read)
"""


def attempt(house: House, spec: dict[str, Any], dataset_id: str, killed_at: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", KILLED, str(house.home), json.dumps(spec), dataset_id, str(killed_at)]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=ROOT)


def test_killed_registration_goes_on_from_the_next_part(house: House) -> None:
    spec, dataset_id = house.chexpert(45), new_id("dataset")
    whole = house.register(spec)
    for killed_at in (15, 35):
        assert attempt(house, spec, dataset_id, killed_at).returncode == -signal.SIGKILL
        assert len(house.committed()) == 1
    folder = house.home / "registrations" / dataset_id
    assert folder.stat().st_mode & 0o077 == 0
    assert len(list(folder.glob("pictures-*.parquet"))) == 3
    resumed = attempt(house, spec, dataset_id, 0)
    assert (resumed.returncode, resumed.stdout.strip()) == (0, "15")
    again = house.catalog.get("dataset", dataset_id)
    ignored = {"id", "created", "digest"}
    assert again.model_dump(exclude=ignored) == whole.model_dump(exclude=ignored)
    assert not folder.exists()


def test_changed_table_makes_a_second_attempt_begin_anew(house: House) -> None:
    spec, dataset_id = house.chexpert(20), new_id("dataset")
    assert attempt(house, spec, dataset_id, 15).returncode == -signal.SIGKILL
    table = house.data / "set" / "train.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert attempt(house, spec, dataset_id, 0).stdout.strip() == "19"


@pytest.mark.parametrize("error", [UnavailableError("store"), OSError("disk full")])
def test_failed_registration_leaves_no_films_behind(house: House, error: Exception) -> None:
    with mock.patch.object(Catalog, "commit", side_effect=error), pytest.raises(type(error)):
        house.register(house.chexpert())
    assert not any((house.home / "registrations").iterdir())


def test_interrupted_registration_keeps_what_it_finished(house: House) -> None:
    spec, dataset_id = house.chexpert(), new_id("dataset")
    with mock.patch.object(Catalog, "commit", side_effect=JobInterruptedError("stopped")), pytest.raises(JobInterruptedError):
        house.register(spec, dataset_id)
    assert list((house.home / "registrations" / dataset_id).glob("pictures-*.parquet"))
    with mock.patch.object(film_pictures, "read_picture", side_effect=AssertionError):
        assert sum(house.register(spec, dataset_id).counts.values()) == 12


def test_abandoned_registrations_are_swept(house: House) -> None:
    left, recent = (house.home / "registrations" / new_id("dataset") for _ in range(2))
    for folder in (left, recent):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    house.register(house.chexpert())
    assert (left.exists(), recent.exists()) == (False, True)


# ---------------------------------------------------------------- what others read


@pytest.fixture(scope="module")
def parts(phantom: tuple[House, DatasetManifest]) -> tuple[list[str], list[FilmFacts]]:
    house, manifest = phantom
    folder = house.catalog.fetch(manifest)
    return [str(folder / part.path) for part in manifest.parts], list(house.films(manifest).facts)


def test_pandas_reads_the_parts(parts: tuple[list[str], list[FilmFacts]]) -> None:
    import pandas as pd

    paths, facts = parts
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    assert frame["prompt"].tolist() == [fact.prompt for fact in facts]
    assert frame["age"].tolist() == [fact.age for fact in facts]
    assert frame["labels"].iloc[0] == facts[0].labels
    assert frame["png"].iloc[0].startswith(b"\x89PNG")


def test_duckdb_reads_the_parts(parts: tuple[list[str], list[FilmFacts]]) -> None:
    import duckdb

    paths, facts = parts
    query = (
        """select count(*), count(distinct patient), sum(repeats), count(*) filter (labels."Support Devices" = 1) from read_parquet(?)"""
    )
    with duckdb.connect() as connection:
        counted = connection.execute(query, [paths]).fetchone()
    assert counted == (
        len(facts),
        len({fact.patient for fact in facts}),
        sum(fact.repeats for fact in facts),
        sum(fact.labels["Support Devices"] == 1 for fact in facts),
    )


def test_hugging_face_datasets_reads_the_parts(
    parts: tuple[list[str], list[FilmFacts]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    paths, facts = parts
    rows = datasets.Dataset.from_parquet(paths, cache_dir=str(tmp_path))
    assert rows["prompt"][:] == [fact.prompt for fact in facts]
    assert rows[0]["labels"] == facts[0].labels
    picture = rows.cast_column("png", datasets.Image())[0]["png"]
    assert picture.size == (16, 16)
