"""Addresses of other systems, and names of files that they determine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_anatomix.clinical.network.addresses import check_url, instance_file, parse_dimse_address, require_package
from pretraining.common.errors import InputError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ARCHIVE@10.0.0.7:104", ("ARCHIVE", "10.0.0.7", 104)),
        ("My-AE_1@pacs.example.org:11112", ("My-AE_1", "pacs.example.org", 11112)),
        ("A@[::1]:4242", ("A", "::1", 4242)),
    ],
)
def test_an_address_has_title_host_and_port(text, parts):
    address = parse_dimse_address(text, "--send")
    assert (address.title, address.host, address.port) == parts


@pytest.mark.parametrize("text", ["", "A@b", "a:104", "@b:104", "A@b:0", "A@b:65536", f"{'A' * 17}@b:1", "A B@c:1"])
def test_another_syntax_is_refused(text):
    with pytest.raises(InputError, match="expected AET@HOST:PORT"):
        parse_dimse_address(text, "--send")


def test_urls_have_a_host_and_no_password():
    assert check_url("https://archive/dicom-web/", "--send") == "https://archive/dicom-web"
    for text in ("archive", "ftp://archive", "https://"):
        with pytest.raises(InputError, match="expected a URL"):
            check_url(text, "--fetch")
    with pytest.raises(InputError) as refused:
        check_url("https://user:secret@archive", "--fetch")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "uid", ["..", ".", "", "1/2", "../../etc/passwd", "1..2", "a", "1" * 65, "/etc", "1\\2", "1\n"]
)
def test_no_text_of_another_system_leads_out_of_the_folder(uid):
    for uids in ((uid, "1.2"), ("1.2", uid)):
        with pytest.raises(InputError):
            instance_file(Path("in"), *uids)
    assert instance_file(Path("in"), "1.2", "3.4") == Path("in/1.2/3.4.dcm")


def test_a_missing_package_is_named_with_its_installation():
    require_package("json", "json", "--send")
    with pytest.raises(InputError, match=r"--send needs no-such-package, .* pip install no-such-package$"):
        require_package("no_such_package", "no-such-package", "--send")
