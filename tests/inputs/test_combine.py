"""The one rule for what may be joined, by itself."""

import numpy as np
import pytest

from activestore.errors import JoinError
from activestore.inputs.concatenation import Joint, check_units


def test_labels_keep_their_order_and_are_there_once():
    joint = Joint("member", ["a.nc", "b.nc"], "leave one out")
    assert joint.order([np.array(["r2", "r1"]), np.array(["r0"])]) == [0, 1]
    assert joint.order([np.array([], object), np.array(["r0"], object)]) == [1, 0]
    with pytest.raises(JoinError, match=r"^a.nc and b.nc: overlap along 'member': 'r1' is there twice; leave one out$"):
        joint.order([np.array(["r2", "r1"]), np.array(["r1"])])
    with pytest.raises(JoinError, match=r"^a.nc: overlap along 'member': 'r1' is there twice"):
        joint.order([np.array(["r1", "r1"], object), np.array(["r0"], object)])
    check_units("v", joint.files, [None, None])
    with pytest.raises(JoinError, match=r"'v' is in no units and K"):
        check_units("v", joint.files, [None, "K"])
