"""Context managers that undo hooks and mode changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooks(*handles: RemovableHandle) -> Iterator[None]:
    """Remove the hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def runs_hooks(module: nn.Module) -> bool:
    """Whether a module's forward pass runs hooks, as pruning does, or was replaced."""
    # accelerate sets a forward on the instance, and the class's own again when it unwraps.
    forward, of_class = vars(module).get("forward"), MethodType(type(module).forward, module)
    changed = forward is not None and forward != of_class
    return changed or bool(module._forward_pre_hooks or module._forward_hooks)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module, or every module, has hooks on its forward or its backward pass."""
    backward = module._backward_pre_hooks or module._backward_hooks
    return runs_hooks(module) or bool(backward) or _has_any_global_hook()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; each module then returns to the mode it was in."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = module in training
