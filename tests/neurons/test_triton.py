"""The Triton kernel against the reference: on a CUDA device, else in Triton's interpreter."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
import torch

from zoo.neurons import LIF
from zoo.neurons.surrogates import SLOPES

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
N = 1500  # no multiple of a block
# decay and threshold; the currents below meet the first two thresholds exactly, and the products
# of the third are inexact, so that it matters where they are rounded.
CONSTANTS = [(0.5, 1.0), (0.25, 0.5), (0.6, 0.9)]


def load(interpret: bool) -> ModuleType:
    """A copy of the kernel's module of its own: Triton decides for or against its interpreter where
    a kernel is decorated, and another test may have imported both long ago.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpret)))
        spec = importlib.util.find_spec("zoo.neurons.kernels.cuda")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernel() -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed")
    return load(interpret=not CUDA)


def current(T: int, n: int = N, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[T, N], every other neuron in steps of 1/8."""
    x = 1.2 * torch.randn(T, n, generator=torch.Generator().manual_seed(0))
    x[:, ::2] = (8 * x[:, ::2]).round() / 8
    return x.to(DEVICE, dtype)


def gradient(T: int, n: int = N, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(T, n, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)


def reference(x, grad, *constants):
    """Spikes and the gradient of x, as the eager loop has them."""
    x = x.clone(memory_format=torch.contiguous_format).requires_grad_()
    spikes = LIF(*constants, backend="eager")(x)
    spikes.backward(grad)
    return spikes.detach(), x.grad


def assert_same(kernel, x, grad, *constants):
    """The bits of the reference, except where a type, a tanh or a division rounds differently;
    whether the reset is detached or not.
    """
    for detach_reset in (False, True):
        _assert_same(kernel, x, grad, *constants, detach_reset)


def _assert_same(kernel, x, grad, *constants):
    decay, v_threshold, reset, surrogate, width, _ = constants
    spikes, grad_x = reference(x, grad, *constants)
    ours = kernel.forward(x, decay, v_threshold, reset)
    assert ours.dtype == x.dtype
    assert ours.is_contiguous()
    assert torch.equal(ours, spikes)

    ours = kernel.backward(grad, x, *constants)
    assert ours.dtype == x.dtype
    assert ours.is_contiguous()
    if x.dtype == torch.float32 and surrogate != "tanh" and width in (0.5, 1.0, 2.0):
        assert torch.equal(ours, grad_x)
    else:
        eps = 0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
        torch.testing.assert_close(ours, grad_x, rtol=eps, atol=5e-6)


@pytest.mark.parametrize(
    ("T", "surrogate", "reset", "dtype"),
    [
        (1, "triangle", "zero", torch.float32),
        (2, "rectangle", "subtract", torch.bfloat16),
        (4, "tanh", "zero", torch.float16),
        (8, "arctan", "subtract", torch.float32),
        (4, "triangle", "subtract", torch.float32),
        (2, "arctan", "zero", torch.bfloat16),
    ],
)
def test_the_triton_kernel_gives_the_bits_of_the_reference(kernel, T, surrogate, reset, dtype):
    x, grad = current(T, dtype=dtype), gradient(T, dtype=dtype)
    for decay, v_threshold in CONSTANTS:
        assert_same(kernel, x, grad, decay, v_threshold, reset, surrogate, 0.5)


@pytest.mark.parametrize(("surrogate", "width"), zip(SLOPES, (0.7, 1.0, 2.0, 0.7), strict=True))
def test_the_triton_kernel_knows_every_slope_at_every_width(kernel, surrogate, width):
    assert_same(kernel, current(4), gradient(4), 0.5, 1.0, "zero", surrogate, width)


@pytest.mark.parametrize(
    ("T", "levels", "dtype"), [(1, 4, torch.float32), (3, 2, torch.float32), (3, 4, torch.bfloat16)]
)
def test_the_triton_kernel_gives_the_rates_of_the_reference(kernel, T, levels, dtype):
    x, grad = current(T, dtype=dtype), gradient(T, dtype=dtype)
    for v_threshold in (1.0, 0.5, 0.9):
        for detach_reset in (False, True):
            neuron = 1.0, v_threshold, "subtract"
            slope = "triangle", 1.0, detach_reset
            layer = LIF(*neuron, *slope, backend="eager", levels=levels)
            leaf = x.clone().requires_grad_()
            rates = layer(leaf)
            rates.backward(grad)
            assert len(rates.unique()) == levels + 1
            assert torch.equal(kernel.forward(x, *neuron, levels), rates)
            ours = kernel.backward(grad, x, *neuron, *slope, levels)
            exact = dtype == torch.float32 and v_threshold != 0.9
            eps = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
            torch.testing.assert_close(ours, leaf.grad, rtol=eps, atol=0 if exact else 5e-6)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_triton_kernel_fires_at_exactly_the_threshold(kernel, reset):
    for decay, v_threshold in CONSTANTS[:2]:
        v = LIF(decay, v_threshold, reset).membrane(current(8))
        assert (v == v_threshold).any()  # so does every comparison of this file
        spikes = kernel.forward(current(8), decay, v_threshold, reset)
        assert (spikes[v == v_threshold] == 1).all()


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_triton_kernel_takes_any_stride_between_steps(kernel, reset):
    repeated = current(1).expand(4, N)
    assert repeated.stride() == (0, 1)
    for x, grad in [
        (repeated, gradient(4)),
        (current(4, N + 3)[:, :N], gradient(4, N + 5)[:, 2 : N + 2]),
        (current(4), gradient(1).expand(4, N)),
    ]:
        assert_same(kernel, x, grad, 0.5, 1.0, reset, "triangle", 0.5)


@pytest.mark.parametrize("n", [1, 128, 1024, 1025])
def test_the_triton_kernel_stays_inside_its_tensors(kernel, n):
    padded = current(3, n + 1)
    assert_same(kernel, padded[:, :n], gradient(3, n), 0.5, 1.0, "zero", "arctan", 0.5)


@pytest.mark.parametrize("T", [5, 16, 33])
def test_the_triton_kernel_takes_many_time_steps(kernel, T):
    assert_same(kernel, current(T, 300), gradient(T, 300), 0.5, 1.0, "subtract", "triangle", 0.5)


@pytest.mark.parametrize("surrogate", SLOPES)
def test_the_triton_kernel_does_not_hide_a_nan(kernel, surrogate):
    x, grad = current(4, 64), gradient(4, 64)
    x[1, 3] = float("nan")
    _, expected = reference(x, grad, 0.5, 1.0, "zero", surrogate, 0.5)
    ours = kernel.backward(grad, x, 0.5, 1.0, "zero", surrogate, 0.5, False)
    assert torch.equal(ours.isnan(), expected.isnan())


def test_the_triton_kernels_compile_for_a_gpu_and_contract_nothing(tmp_path, monkeypatch):
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = load(interpret=False)
    steps = {"T": 2, "RESET": "subtract", "LEVELS": 1, "BLOCK": 256}
    rates = steps | {"LEVELS": 4}
    programs = [(kernel._forward, steps), (kernel._forward, rates)]
    slope = {"SURROGATE": "triangle", "WIDTH": 0.5, "DETACH_RESET": False}
    programs += [(kernel._backward, steps | slope | {"SURROGATE": s}) for s in SLOPES]
    programs += [(kernel._backward, rates | slope)]
    programs += [(kernel._forward, steps | {"RESET": "zero"})]
    programs += [(kernel._backward, steps | slope | {"RESET": "zero"})]
    types = dict.fromkeys(["n", "x_stride", "grad_stride"], "i64")
    types |= dict.fromkeys(["decay", "v_threshold", "steepness", "half_a_step"], "fp32")
    of_every_type = [(*program, "*fp32") for program in programs]
    of_every_type += [(*program, kind) for kind in ("*bf16", "*fp16") for program in programs[-2:]]
    for program, constants, kind in of_every_type:
        tensors = dict.fromkeys(["x", "grad", "spikes", "grad_x"], kind)
        known = types | tensors
        signature = {name: known.get(name, "constexpr") for name in program.arg_names}
        source = triton.compiler.ASTSource(program, signature, constants)
        target = GPUTarget("cuda", 80, 32)
        ptx = triton.compile(source, target, dict(kernel.LAUNCH_OPTIONS)).asm["ptx"]
        assert re.search(r"mul\.[\w.]*f32", ptx)
        assert not re.search(r"(fma|mad)\.[\w.]*f32", ptx)


def test_the_triton_kernel_says_why_it_cannot_run(kernel):
    assert kernel.unavailable() is None
    reason = load(interpret=False).unavailable()
    assert CUDA or reason == "no CUDA device, and TRITON_INTERPRET=1 was not set before the import"


@pytest.mark.skipif(CUDA, reason="a CUDA device, whose driver works")
def test_the_triton_kernel_says_that_its_launcher_cannot_be_built(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load(interpret=False).unavailable().startswith("Triton cannot build its launcher: ")


def test_the_triton_kernel_is_imported_where_triton_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert load(interpret=False).unavailable().startswith("Triton cannot be imported: ")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_the_triton_kernel_gives_the_bits_of_the_reference_in_a_large_layer(kernel):
    n = (1 << 22) + 7
    for decay, v_threshold in CONSTANTS:
        for reset in ("zero", "subtract"):
            x, grad = current(4, n), gradient(4, n)
            assert_same(kernel, x, grad, decay, v_threshold, reset, "triangle", 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_the_triton_kernel_reaches_past_32_bit_offsets(kernel):
    T, n = 8, (1 << 28) + 8
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    x = torch.randn(T, n, dtype=torch.bfloat16, device=DEVICE)
    grad = gradient(1, n, torch.bfloat16).expand(T, n)
    constants = 0.5, 1.0, "zero", "triangle", 0.5, False
    spikes, grad_x = reference(x[:, -N:], grad[:, -N:], *constants)
    assert torch.equal(kernel.forward(x, 0.5, 1.0, "zero")[:, -N:], spikes)
    ours = kernel.backward(grad, x, *constants)[:, -N:]
    torch.testing.assert_close(ours, grad_x, rtol=torch.finfo(x.dtype).eps, atol=5e-6)
