"""Pretrained folders on the disk and on the Hugging Face Hub.

config.json          timm's schema, with the constants of the neurons
model.safetensors    the weights
"""

from zoo.hub.download import PullError
from zoo.hub.folder import (
    CONFIG,
    INT8_GRAPH,
    REPORT,
    UINT8_GRAPH,
    UNTRAINED,
    WEIGHTS,
    network_asked_for,
    neuron_constants,
    read_config,
    said_of,
    save_pretrained,
    weight_tensors,
)
from zoo.hub.locate import (
    BUNDLED,
    RATES,
    WEIGHTS_FOLDER_VARIABLE,
    architectures,
    find_pretrained,
    is_architecture,
    locate,
    pretrained_folders,
    pretrained_names,
)
