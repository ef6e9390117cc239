"""NIC models: every word of a topology has one, and says how its guest completes checksums."""

from __future__ import annotations

import pytest

from labctl.errors import UsageError
from labctl.kinds import nics, registry
from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel
from labctl.topology import TopologyError, loads, schema


def test_the_models_are_those_that_a_topology_may_name() -> None:
    made = schema.json_schema()["$defs"]["Interface"]["properties"]["model"]
    assert made["anyOf"][0]["enum"] == list(nics.SHIPPED)
    assert [model.name for model in registry.NICS.usable()] == list(nics.SHIPPED)


@pytest.mark.parametrize("model", registry.NICS.usable(), ids=lambda one: one.name)
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
        registry.nic("e1001")
    assert "e1000" in wrong.value.hint


def test_one_of_another_package_can_be_named() -> None:
    class Igb(NicModel):
        name = "igb"
        summary = "emulated: a NIC that labctl does not know"
        effect = Effect.COMPLETES
        driver = "igb"
        carrier = ""

    text = "networks: {lan: {}}\nnodes:\n  vm1: {interfaces: [{network: lan, model: igb}]}\n"
    with pytest.raises(TopologyError, match="there is no model 'igb'"):
        loads(text, "t.yaml")
    with registry.registered(Igb):
        assert loads(text, "t.yaml").nodes["vm1"].interfaces[0].model == "igb"
        made = schema.json_schema()["$defs"]["Node"]["properties"]["model"]
        assert made["anyOf"][0]["enum"] == [*nics.SHIPPED, "igb"]
        assert registry.nic("igb").way_out == "igb of QEMU, /dev/net/tun"
