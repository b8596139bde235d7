"""Spikformer: the paper's network, by its code's definitions."""

import onnx
import pytest
import torch
from exact_networks import awaken, pixels, settle, that_differ, ways_to_run
from spikingjelly.activation_based.neuron import LIFNode
from spikingjelly.activation_based.op_counter import DispatchCounterMode, MACCounter, SynOpCounter
from spikingjelly.activation_based.surrogate import Sigmoid
from torch import nn
from torch.nn import functional as F

import zoo
from export.checks.agreement import check_agreement
from export.graph.proof import certify
from zoo.data import normalise
from zoo.deployment.fold import why_not_exact
from zoo.deployment.writer import write_graph
from zoo.diagnostics import count_operations, firing_rates
from zoo.models.spikformer import NEURON, SCALE, ConvSpike, SelfAttention

NARROW = {"embed_dim": 32, "num_heads": 4, "depths": (1, 1), "mlp_ratio": 2.0, "time_steps": 2}


def create(**kwargs):
    torch.manual_seed(0)
    return zoo.create_model("spikformer_4_384", **NARROW | kwargs)


def images(batch=2, size=16):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def their_neuron(v_threshold=1.0):
    """MultiStepLIFNode(tau=2.0, detach_reset=True) of the paper's code, which halves its input."""
    return LIFNode(
        tau=2.0,
        v_threshold=v_threshold,
        surrogate_function=Sigmoid(alpha=4.0),
        detach_reset=True,
        step_mode="m",
    )


def test_the_published_count_is_ours_and_the_biases_before_norms():
    model = zoo.create_model("spikformer_4_384")
    biases = [m.conv.conv.out_channels for m in model.stages.modules() if isinstance(m, ConvSpike)]
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert ours + sum(biases) == 9_324_730  # "9.32 M": table 3 of the paper


def test_the_neuron_is_that_of_the_papers_code():
    x = torch.randn(4, 2, 500, generator=torch.Generator().manual_seed(0)).mul(3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    spikes, expected = NEURON()(ours), their_neuron()(theirs)
    assert torch.equal(spikes, expected)
    assert 0.1 < spikes.mean() < 0.9
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_block_gives_the_spikes_of_the_papers_code():
    block = awaken(create().stages[0][0]).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data += 1  # enough to fire
    x = torch.randint(3, (2, 3, 32, 4, 4), generator=torch.Generator().manual_seed(1)).double()

    def layer(module, x):
        """A linear layer for each token, its norm and its neuron, [T, B, N, C]."""
        conv, norm = module.conv.conv, module.conv.norm
        y = F.linear(x, conv.weight.flatten(1))
        y = F.batch_norm(
            y.flatten(0, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
        return their_neuron()(y.view(*x.shape[:3], -1))

    tokens = x.flatten(3).mT
    attention = block.attention
    q, k, v = (
        layer(part, tokens).unflatten(-1, (4, 8)).transpose(2, 3)  # [T, B, heads, N, C / heads]
        for part in (attention.query, attention.key, attention.value)
    )
    attended = ((q @ k.mT) * 0.125) @ v
    attended = their_neuron(v_threshold=0.5)(attended.transpose(2, 3).flatten(3))
    projected = layer(attention.project, attended)
    stream = tokens + projected
    stream = stream + layer(block.mlp[1], layer(block.mlp[0], stream))
    with torch.no_grad():
        ours = block(x)
    assert torch.equal(ours.flatten(3).mT, stream)
    assert 0.01 < attended.mean() < 0.99
    assert projected.mean() > 0.01


def test_the_stream_counts_spikes():
    model = settle(awaken(create(depths=(2, 2))))
    with torch.no_grad():
        streams = list(model._stage_outputs(images()))
    for stage, stream in enumerate(streams):
        assert torch.equal(stream, stream.round())
        assert stream.min() >= 0
        assert stream.max() <= 2 + 4 * (stage + 1)
    assert streams[-1].max() > 2


def test_all_neurons_share_their_constants():
    layers = [module for module in create().modules() if isinstance(module, zoo.LIF)]
    assert len(layers) == 5 + 2 * 7
    assert {str(layer.constants()) for layer in layers} == {str(NEURON().constants())}
    assert SCALE / NEURON().v_threshold == 0.125 / (
        2 * 0.5
    )  # theirs, whose neuron halves its input


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="embed_dim: expected a multiple of 8 and of 3 num_heads"):
        create(num_heads=3)
    with pytest.raises(ValueError, match="num_heads, got 36"):
        create(embed_dim=36)
    with pytest.raises(ValueError, match="num_heads: expected a whole number >= 1, got 0"):
        create(num_heads=0)


def test_lean_memory_changes_no_bit_of_a_training_step():
    gradients = []
    for memory in ("fast", "lean"):
        model = create(memory=memory).train()
        model(images(batch=8)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert sum(grad.any().item() for grad in gradients[0]) > 30


def test_attention_only_adds():
    model, x = settle(awaken(create())), images()
    ours = {o.layer: o for o in count_operations(model, [x])}
    attention = ours["stages.0.0.attention.attention"]
    assert attention.accumulates > 0
    assert attention.multiply_accumulates == 0
    assert ours["stages.0.0.mlp.0.conv.conv"].inputs == "integer"
    counters = SynOpCounter(), MACCounter()
    with DispatchCounterMode(list(counters)), torch.no_grad():
        model(x)
    scope = "Spikformer.stages.0.0.attention.attention"
    synops, macs = (counter.get_counts()[scope] for counter in counters)
    assert sum(synops.values()) / len(x) == attention.accumulates
    assert sum(macs.values()) == 0


def test_attention_may_be_any_width_of_image():
    attention = awaken(nn.Sequential(SelfAttention(16, 2, NEURON)))
    x = torch.randint(2, (2, 1, 16, 3, 5), generator=torch.Generator().manual_seed(0)).float()
    assert attention(x).shape == x.shape


def deployable(**kwargs):
    torch.manual_seed(0)
    overlay = {"input_size": (3, 16, 16)}
    model = zoo.create_model("spikformer_4_384", pretrained_cfg_overlay=overlay, **NARROW | kwargs)
    return settle(awaken(model))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_attention_is_exact_in_every_way_to_run_it(reset):
    model = deployable(spike_layer={"reset": reset, "v_threshold": 0.5, "decay": 0.25})
    deployed, x = zoo.deploy(model), pixels(model, 4)
    ways = ways_to_run(deployed, x)
    assert that_differ(ways) == []
    assert min(firing_rates(model, [x / 64.0 - 2]).values()) > 0
    assert len(ways["contiguous"].unique()) > 10
    rows = {row.layer: row for row in certify(write_graph(deployed))}
    met = rows["stages.0.0.attention.attention.met"]
    assert met.largest == 4 * 4 * 8  # every token's 8 channels of a head, if all of them fired


def test_a_scale_that_rounds_is_refused():
    model = deployable()
    model.stages[1][0].attention.attention.scale = 0.3
    with pytest.raises(zoo.NotExactError, match=r"power of two .*attention"):
        zoo.deploy(model)
    assert zoo.deploy(model, exact=False)(pixels(model, 2)).isfinite().all()
    with torch.device("meta"):
        twin = zoo.create_model("spikformer_4_384")
        twin.stages[1][0].attention.attention.scale = 0.3
        assert "scaled by 0.3" in why_not_exact(twin)


def test_what_cannot_be_exact_is_exported_by_the_agreement_rule(tmp_path):
    model = deployable(spike_layer={"decay": 0.3, "v_threshold": 0.5})
    with pytest.raises(zoo.NotExactError, match="expected a decay that is a power of two"):
        zoo.deploy(model)
    graph = tmp_path / "model.onnx"
    onnx.save(write_graph(zoo.deploy(model, exact=False)), graph)
    x = normalise(pixels(model, 16), (125, 123, 114), (63, 62, 67))
    with torch.inference_mode():
        checks = check_agreement(model(x), graph, x, None)
    assert [check.title for check in checks if not check.passed] == []
