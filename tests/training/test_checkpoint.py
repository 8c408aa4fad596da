"""Writing checkpoints whole, and reading weights into the network they belong to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.errors import InputError
from nnunet_ext.training.checkpoint import load_weights, plain, read, unwrap, write


def test_unwrap_finds_the_network_inside_ddp_and_compile(tmp_path):
    network = nn.Linear(2, 2)
    assert unwrap(network) is network
    assert unwrap(torch.compile(network)) is network
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert unwrap(DistributedDataParallel(network)) is network
        assert unwrap(DistributedDataParallel(torch.compile(network))) is network
    finally:
        distributed.destroy_process_group()


def test_a_failed_write_leaves_the_old_checkpoint_alone(tmp_path):
    target = tmp_path / "checkpoint_latest.pth"
    write({"nnunet_ext": {}, "epoch": 1}, target)

    class Unwritable:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write({"nnunet_ext": {}, "weights": torch.zeros(1000), "bad": Unwritable()}, target)
    assert read(target, torch.device("cpu"))["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_latest.pth"]


def test_another_programs_checkpoint_is_refused(tmp_path):
    torch.save({"network_weights": {}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: not written by a trainer of nnunet_ext"):
        read(tmp_path / "a.pth", torch.device("cpu"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"weight is \(2, 3\) there and \(2, 2\) in the network"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, r"bias is \(2,\) there and missing in the network"),
        ({}, r"weight is missing there and \(2, 2\) in the network"),
    ],
)
def test_weights_of_another_network_name_the_difference(weights, message):
    with pytest.raises(InputError, match=f"^x.pth: {message}"):
        load_weights(nn.Linear(2, 2, bias=False), weights, "x.pth")


def test_weights_go_into_the_network_inside_the_wrapper():
    network = nn.Linear(2, 2, bias=False)
    load_weights(torch.compile(network), {"weight": torch.full((2, 2), 3.0)}, "x.pth")
    assert (network.weight == 3).all()


def test_plain_keeps_tensors_and_makes_everything_else_pythons_own():
    tensor = torch.ones(2)
    value = {"a": np.float32(0.5), "b": [np.arange(2), (1, None)], "c": torch.device("cpu"), "d": tensor}
    result = plain(value)
    assert result == {"a": 0.5, "b": [[0, 1], (1, None)], "c": "cpu", "d": tensor}
    assert type(result["a"]) is float
