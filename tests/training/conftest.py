"""A recipe that trains in a second."""

from dataclasses import replace

import pytest

from zoo.training.config import Config


@pytest.fixture
def tiny(recipe, tmp_path) -> Config:
    """Two epochs of four steps of a narrow network, in a new run folder."""
    args = recipe.model_args | {"depths": [1, 1], "widths": [8, 16]}
    data = replace(recipe.data, limit=128)
    output = str(tmp_path / "run")
    return replace(recipe, model_args=args, data=data, epochs=2, batch_size=32, output=output)
