"""The architectures, a module per family. Importing this package registers them in timm."""

from zoo.models import sew_resnet, short_bp_resnet, short_bp_vgg, spikformer

__all__ = ["sew_resnet", "short_bp_resnet", "short_bp_vgg", "spikformer"]
