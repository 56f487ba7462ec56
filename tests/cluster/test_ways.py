"""Whether a machine is cut off, told without its engine."""

from __future__ import annotations

import pytest
from tools.three_engines import ThreeEngines

from llmlab.clusters.ways import Ways
from tests.cluster.conftest import UNCLOSED

pytestmark = [pytest.mark.cluster, UNCLOSED]


@pytest.mark.parametrize("node", ["n2", "n3"])
def test_a_machine_that_has_answered_and_does_not_is_gone_until_it_does(three: ThreeEngines, node: str):
    ways, address = Ways(), three.hosts()[node]
    ways.learn(three.hosts().values())
    assert not ways.is_gone(address)
    three.cut(node)
    assert ways.is_gone(address)
    assert ways.still_gone() == {address}
    three.mend(node)
    assert not ways.still_gone()
    assert not ways.is_gone(address)


def test_what_has_never_answered_there_is_left_to_its_engine(three: ThreeEngines):
    ways, address = Ways(), three.hosts()["n3"]
    three.cut("n3")
    ways.learn([address, three.hosts()["n1"]])
    # By way of another machine ssh may reach it all the same.
    assert not ways.is_gone(address)
    assert not ways.is_gone(three.hosts()["n1"]), "a unix socket"
    assert not ways.is_gone(None)
