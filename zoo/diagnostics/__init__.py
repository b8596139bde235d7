"""What goes on inside a network: gradients, firing rates, operations and their energy."""

from zoo.diagnostics.gradients import Gradient, gradients
from zoo.diagnostics.operations import (
    Operations,
    count_connections,
    count_operations,
)
from zoo.diagnostics.rates import firing_rates
