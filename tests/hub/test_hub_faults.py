"""Every fault of hub_faults.py, through the real client: it ends well or in words."""

import pytest
from hub_client import hub_client
from hub_faults import FAULTS, run_fault
from hub_server import HubServer


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with hub_client(hub, tmp_path_factory.mktemp("home"), HF_HUB_DOWNLOAD_TIMEOUT="1") as client:
        yield client


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.act}: {fault.what}")
def test_a_fault_ends_well_or_in_words_and_leaves_nothing_broken(fault, hub, client, exported):
    outcome = run_fault(fault, hub, client, exported)
    assert outcome.is_as_told(fault), outcome
