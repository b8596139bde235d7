"""SEW ResNets: what stands behind the neuron, and that it stays exact."""

import pytest
import torch
import torchvision
from exact_networks import awaken, pixels, that_differ, ways_to_run

import zoo
from export.graph.proof import certify
from zoo.deployment.writer import write_graph
from zoo.models.sew_resnet import BLOCKS, BasicBlock, Bottleneck

RESIDUALS = ["add", "and", "iand"]
SMALL = dict(depths=(3, 2), widths=(8, 8), time_steps=3)


def create(**kwargs):
    torch.manual_seed(0)
    overlay = {"input_size": (3, 16, 16)}
    return zoo.create_model("sew_resnet18_cifar", pretrained_cfg_overlay=overlay, **SMALL | kwargs)


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_its_tensors_are_those_of_torchvisions_resnet(depth):
    with torch.device("meta"):
        ours = zoo.create_model(f"sew_resnet{depth}").state_dict()
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    del ours["neurons"]
    shapes = (sorted(tuple(t.shape) for t in of.values()) for of in (ours, theirs))
    assert next(shapes) == next(shapes)


def test_neurons_are_the_papers_if():
    neurons = [module for module in create().modules() if isinstance(module, zoo.LIF)]
    expected = dict(decay=1.0, v_threshold=1.0, reset="zero", surrogate="arctan", width=1.0)
    expected["detach_reset"] = True
    assert {str(neuron.constants()) for neuron in neurons} == {str(expected)}


@pytest.mark.parametrize(
    ("kind", "stride", "residual", "expected"),
    [
        (BasicBlock, 1, "add", lambda y, shortcut: y.int() + shortcut.int()),
        (BasicBlock, 2, "and", lambda y, shortcut: y & shortcut),
        (Bottleneck, 1, "iand", lambda y, shortcut: ~y & shortcut),
        (Bottleneck, 2, "add", lambda y, shortcut: y.int() + shortcut.int()),
    ],
)
def test_a_block_joins_spikes_with_spikes(kind, stride, residual, expected):
    torch.manual_seed(0)
    chs = 8 * kind.expansion
    block = awaken(kind(chs, 8, stride, zoo.LIF, residual))
    x = (torch.rand(3, 2, chs, 8, 8) < 0.5).float()
    with torch.no_grad():
        y, shortcut, joined = block.spikes(x).bool(), block.shortcut(x).bool(), block(x)
    assert 0 < y.float().mean() < 1
    assert 0 < shortcut.float().mean() < 1
    assert torch.equal(joined, expected(y, shortcut).float())


@pytest.mark.parametrize(("residual", "most"), [("add", 4), ("and", 1), ("iand", 1)])
def test_only_sums_grow_by_one_with_every_block(residual, most):
    model = awaken(create(residual=residual))
    with torch.no_grad():
        stream = model.stages[0](model.stem(torch.randn(8, 3, 16, 16)))
    assert {*stream.unique().tolist()} <= {*range(most + 1)}
    assert stream.max() == most


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_zero_init_starts_as_the_identity_and_can_leave_it(residual, block):
    model = create(residual=residual, block=block, zero_init_last=True).train()
    x = (torch.rand(3, 2, 8 * BLOCKS[block].expansion, 8, 8) < 0.5).float()
    same = model.stages[0][1]
    y = same(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    last = same.conv2 if block == "basic" else same.conv3
    assert last.norm.weight.grad.any()


def test_zero_init_takes_any_neuron():
    create(residual="and", zero_init_last=True, spike_layer=lambda: torch.nn.Threshold(1, 0))


@pytest.mark.parametrize(
    ("residual", "block"), [("add", "basic"), ("and", "bottleneck"), ("iand", "basic")]
)
def test_lean_memory_changes_no_bit(residual, block):
    results = []
    for memory in ("fast", "lean"):
        model = create(residual=residual, block=block, memory=memory, shortcut_heads=True).train()
        logits, side_logits = model(torch.randn(2, 3, 16, 16))
        (logits.square().sum() + side_logits.square().sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert any(gradient.any() for gradient in gradients)
        results.append([logits, side_logits, *gradients, *model.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("residual", "decay", "reset"),
    [("add", 1.0, "zero"), ("and", 0.5, "subtract"), ("iand", 0.5, "zero")],
)
def test_every_residual_is_exact(residual, decay, reset):
    neurons = {"decay": decay, "reset": reset, "v_threshold": 0.5}
    model = awaken(create(residual=residual, spike_layer=neurons))
    deployed = zoo.deploy(model)
    ways = ways_to_run(deployed, pixels(model, 4))
    assert that_differ(ways) == []
    assert len(ways["contiguous"].unique()) == 40
    rows = {row.layer: row for row in certify(write_graph(deployed))}
    if residual == "add":
        assert rows["stages_0_2_spike2_sum"].largest == 4
        assert rows["stages_1_1_spike2_sum"].largest == 3


@torch.inference_mode()
@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_graph_computes_what_the_network_does(residual):
    model = awaken(create(residual=residual, spike_layer={"decay": 1.0, "v_threshold": 0.5}))
    raw, x = zoo.deploy(model, exact=False), pixels(model, 32)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(-1, 1, 1) for k in ("mean", "std"))
    expected = model((x / 255 - mean) / std)
    assert ((raw(x) - expected).abs().amax(1) < 1e-5).sum() >= 24
    assert len(expected.unique()) > 100


def test_a_sum_of_spikes_and_averages_says_where():
    model = awaken(create(stem="conv7x7_pool"))
    with pytest.raises(zoo.NotExactError, match="sum of spikes and averages"):
        zoo.deploy(model)
