"""What a folder says beside its weights follows from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from export.card.browser import BROWSER_KEYS, PREPROCESSOR, browser_config, preprocessor
from export.checks.certificate import Certificate
from export.checks.check import Check, figures_by_id
from export.folder import REPORT, read_report
from zoo import hub
from zoo.models._neurons import KEY, to_tensor


@dataclass(frozen=True, kw_only=True)
class Metadata(Check):
    id = "metadata"
    title = "metadata matches the weights"
    fault = "that_differ"
    that_differ: list[str]


def check_metadata(
    folder: Path, rule: str, certificate: Certificate | None, is_int8: bool
) -> Metadata:
    """Compare preprocessor, labels, and rule and certificate of a report with what was found.

    Args:
        certificate: None if no graph is exact.
        is_int8: Whether there are int8 graphs.
    """
    path, expected, wrong = folder / PREPROCESSOR, preprocessor(folder), []
    if (path.read_text() if path.is_file() else None) != expected:
        wrong.append(PREPROCESSOR)
    config = hub.read_config(folder)
    neurons = {key: config["model_args"][key] for key in ("time_steps", "spike_layer")}
    with safe_open(folder / hub.WEIGHTS, framework="pt") as weights:
        if KEY in weights.keys() and not torch.equal(weights.get_tensor(KEY), to_tensor(neurons)):  # noqa: SIM118
            wrong.append(f"{hub.WEIGHTS}: {KEY}")  # older weights have none
    browser = browser_config(config.get("label_names", []), is_int8)
    wrong += [f"{hub.CONFIG}: {key}" for key in BROWSER_KEYS if config.get(key) != browser.get(key)]
    if (folder / REPORT).is_file():
        report = read_report(folder)
        if report.get("rule") != rule:
            wrong.append(f"{REPORT}: rule")
        found = certificate and json.loads(json.dumps(certificate.report()["figures"]))
        if figures_by_id(report).get(Certificate.id) != found:
            wrong.append(f"{REPORT}: {Certificate.id}")
    return Metadata(that_differ=wrong)
