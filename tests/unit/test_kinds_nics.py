"""NIC models: every word of a topology has one, and says how its guest completes checksums."""

from __future__ import annotations

from typing import get_args

import pytest

from labctl.errors import UsageError
from labctl.kinds import nics
from labctl.kinds.nics.base import NicModel
from labctl.lab.beforehand import DRIVERS
from labctl.topology import shape
from labctl.topology.features import DEVICE_MODELS


def test_the_models_are_those_that_a_topology_may_name() -> None:
    assert tuple(nics.SHIPPED) == get_args(shape.Model)
    assert [model.name for model in nics.models()] == list(nics.SHIPPED)


def test_what_is_known_of_a_model_elsewhere_is_the_same() -> None:
    assert tuple(one.name for one in nics.models() if one.device_features) == DEVICE_MODELS
    assert {name: nics.model(name).driver for name in DRIVERS} == DRIVERS


@pytest.mark.parametrize("model", nics.models(), ids=lambda one: one.name)
def test_the_first_way_to_complete_checksums_is_one_for_both_ip_versions(
    model: NicModel,
) -> None:
    best = model.completions()[0]
    for version in (4, 6):
        assert best.name in [way.name for way in model.completions(version)]
    assert model.summary
    assert not model.summary.endswith(".")


def test_a_model_that_does_not_exist_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no NIC model 'e1001'") as wrong:
        nics.model("e1001")
    assert "e1000" in wrong.value.hint
