"""The architectures, a module per family. Importing this package registers them in timm."""

from zoo.models import short_bp_resnet

__all__ = ["short_bp_resnet"]
