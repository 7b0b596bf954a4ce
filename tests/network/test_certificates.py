"""Whom TLS trusts is said by the first of four environment variables; a path that is gone is said so."""

import ssl

import certifi
import pytest
from network_kit import clear_environment
from scripted_server import LOOPBACK_PEM

from ldc.network.certificates import ADVICE, VARIABLES, CertificatesNotLoaded, Trusted, tls_context, trusted


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def pem(tmp_path):
    file = tmp_path / "authority.pem"
    file.write_text(LOOPBACK_PEM)
    return file


def subjects(context: ssl.SSLContext) -> set[str]:
    names = [dict(pair for part in each["subject"] for pair in part) for each in context.get_ca_certs()]
    return {name.get("commonName", "") for name in names}


def test_without_a_variable_the_systems_and_certifis_are_trusted():
    assert trusted() == Trusted()
    context = tls_context("a test")
    alone = ssl.create_default_context(cafile=certifi.where())
    assert subjects(alone) <= subjects(context)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("variable", VARIABLES[:3])
def test_a_file_is_trusted_and_nobody_else(monkeypatch, pem, variable):
    monkeypatch.setenv(variable, str(pem))
    assert trusted() == Trusted(file=str(pem), named_by=variable)
    context = tls_context("a test")
    assert subjects(context) == {"127.0.0.1"}
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("variable", [VARIABLES[0], VARIABLES[1], VARIABLES[3]])
def test_a_folder_is_trusted(monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, str(tmp_path))
    assert trusted() == Trusted(folder=str(tmp_path), named_by=variable)
    assert subjects(tls_context("a test")) == set()  # a folder is looked into when a certificate is checked


def test_the_first_variable_counts_and_those_of_openssl_count_together(monkeypatch, pem, tmp_path):
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert trusted() == Trusted(str(pem), str(tmp_path), "SSL_CERT_FILE and SSL_CERT_DIR")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(pem))
    assert trusted() == Trusted(str(pem), None, "CURL_CA_BUNDLE")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert trusted() == Trusted(None, str(tmp_path), "REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    assert trusted().named_by == "CURL_CA_BUNDLE"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_path_that_is_gone_is_named_with_its_variable(monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, str(tmp_path / "gone.pem"))
    with pytest.raises(CertificatesNotLoaded, match=variable) as gone:
        tls_context("a test")
    assert "gone.pem" in str(gone.value)


def test_a_path_that_comes_back_is_used(monkeypatch, tmp_path):
    file = tmp_path / "late.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(CertificatesNotLoaded):
        tls_context("a test")
    file.write_text(LOOPBACK_PEM)
    assert subjects(tls_context("a test")) == {"127.0.0.1"}


@pytest.mark.parametrize("variable", VARIABLES[:3])
def test_a_file_that_holds_no_certificates_is_named_with_its_variable(monkeypatch, tmp_path, variable):
    file = tmp_path / "notes.txt"
    file.write_text("hello\x1b[2J")
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(CertificatesNotLoaded, match=variable) as refused:
        tls_context("a test")
    assert "notes.txt" in str(refused.value)


def test_each_user_has_a_context_of_its_own_which_is_kept():
    assert tls_context("one") is tls_context("one")
    assert tls_context("one") is not tls_context("another")


def test_the_advice_names_the_variables():
    assert all(variable in ADVICE for variable in VARIABLES)
