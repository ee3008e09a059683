"""Manifests to commit in tests."""

from __future__ import annotations

from shared.catalog import DatasetManifest, ModelManifest, new_id


def model(identifier: str | None = None, *, name: str = "ward-a", steps: int = 100) -> ModelManifest:
    """A model's manifest, not yet committed."""
    return ModelManifest(
        id=identifier or new_id("model"),
        name=name,
        architecture="tiny",
        dataset="ds_1",
        base=None,
        spec={"steps": steps, "learning_rate": 1e-3},
        metrics={"loss": 0.123},
        seed=0,
        code_version="0.1.0",
        lineage={"dataset": "ds_1"},
    )


def dataset(identifier: str | None = None) -> DatasetManifest:
    """A data set's manifest, not yet committed."""
    return DatasetManifest(
        id=identifier or new_id("dataset"),
        name="phantom",
        image_size=64,
        counts={"train": 300, "control": 60, "canary": 10},
        patients={"train": 100, "control": 20, "canary": 10},
        prompt_uniqueness={"distinct": 200, "rows_k1": 150},
        duplicates=0,
        warnings=[],
        labels=["Cardiomegaly"],
        seed=0,
    )
