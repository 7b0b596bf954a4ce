"""Mutual TLS, by Zenoh's own configuration: who has no certificate of the authority is out."""

import json

import pytest
from cluster_kit import wait_until
from network_kit import free_port
from tls_kit import AUTHORITY, GOOD, KEY, SELF_SIGNED

import ldc.cluster
from ldc.cluster.operation import wait_for_nodes
from ldc.simulator import SimulatedExchange


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """Return a function that writes a configuration of Zenoh: with this certificate, or with none."""
    folder = tmp_path_factory.mktemp("tls")

    def write(name, certificate):
        (folder / "ca.pem").write_text(AUTHORITY)
        (folder / "key.pem").write_text(KEY)
        tls = {"root_ca_certificate": str(folder / "ca.pem"), "enable_mtls": certificate is not None}
        if certificate is not None:
            (folder / f"{name}.pem").write_text(certificate)
            for side in ("listen", "connect"):
                tls[f"{side}_certificate"] = str(folder / f"{name}.pem")
                tls[f"{side}_private_key"] = str(folder / "key.pem")
        path = folder / f"{name}.json5"
        path.write_text(json.dumps({"transport": {"link": {"tls": tls}}}))
        return path

    return write


@pytest.fixture(scope="module")
def endpoints(configuration):
    """Two nodes that speak TLS."""
    listen = [f"tls/127.0.0.1:{free_port()}" for _ in "ab"]
    config = configuration("good", GOOD)
    with SimulatedExchange(["BTCUSDT"], levels=200) as exchange:
        common = {
            "markets": ["BTCUSDT"],
            "connect": listen,
            "config": config,
            "manager": {
                "restful_base_uri": exchange.restful_base_uri,
                "websocket_base_uri": exchange.websocket_base_uri,
            },
        }
        with (
            ldc.cluster.Node("desk", "a", listen=listen[:1], **common) as one,
            ldc.cluster.Node("desk", "b", listen=listen[1:], **common) as other,
        ):
            wait_until(lambda: one.status().members == ("b",) and other.status().members == ("a",), "both nodes")
            yield listen


def test_a_reader_with_a_certificate_reads(endpoints, configuration):
    with ldc.cluster.connect("desk", connect=endpoints, config=configuration("reader", GOOD)) as books:
        assert books.wait_until_synchronized(["BTCUSDT"], timeout=30)
        assert len(books.get_book("BTCUSDT", 20).bids) == 20
        assert len(wait_for_nodes(books, 10)) == 2


def is_out(endpoints, config):
    """Whether a reader with this configuration finds nobody, in a time in which others find all."""
    books = ldc.cluster.connect("desk", connect=endpoints, config=config)
    with books, pytest.raises(ldc.DepthCacheClusterNotReachableError, match="No node of the cluster 'desk'"):
        wait_for_nodes(books, 1.5)
    return True


def test_a_reader_with_a_certificate_of_its_own_is_out(endpoints, configuration):
    assert is_out(endpoints, configuration("self-signed", SELF_SIGNED))


@pytest.mark.check
def test_a_reader_without_a_certificate_or_without_tls_is_out(endpoints, configuration):
    assert is_out(endpoints, configuration("none", None))
    assert is_out([endpoint.replace("tls/", "tcp/") for endpoint in endpoints], None)
