"""The architectures, a module per family. Importing this package registers them in timm."""

from zoo.models import ms_resnet, sew_resnet, short_bp_resnet, short_bp_vgg, spikformer

__all__ = ["ms_resnet", "sew_resnet", "short_bp_resnet", "short_bp_vgg", "spikformer"]
