"""Networks watched while they run: what is hooked on comes off, and modes are put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooks(*handles: RemovableHandle) -> Iterator[None]:
    """Takes hooks off again."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def runs_hooks(module: nn.Module) -> bool:
    """Whether somebody has hooked on to a module's forward pass, to watch it, to change what it
    gives off, or, as pruning and weight norm do, to make its weight anew from others.
    """
    # accelerate sets a forward of its own, and when it unwraps a network the class's again.
    forward, of_class = vars(module).get("forward"), MethodType(type(module).forward, module)
    changed = forward is not None and forward != of_class
    return changed or bool(module._forward_pre_hooks or module._forward_hooks)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts each module back into the mode it was in."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = module in training
