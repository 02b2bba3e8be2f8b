"""The files of a context that no agent may edit: the stock ones, or ones that the installation trusts."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from actors.templates import stock_context
from actors.verifier.checks.template import EDITABLE, check_template
from actors.verifier.defences import Defence
from events.work import FailureClass
from store.docker_context import FILE_NAMES


def test_the_stock_context_is_trusted() -> None:
    assert check_template(stock_context(), trusted_files=[]) == []


@pytest.mark.parametrize(("attribute", "name"), FILE_NAMES.items())
def test_any_other_text_is_refused_but_in_the_three_files_of_the_agent(attribute: str, name: str) -> None:
    context = msgspec.structs.replace(stock_context(), **{attribute: "true\n"})
    findings = check_template(context, trusted_files=[])
    assert [finding.failure_class for finding in findings] == [FailureClass.RECIPE] * (name not in EDITABLE)
    assert all(name in finding.message and finding.defence is Defence.TEMPLATE for finding in findings)


def test_a_file_is_trusted_by_its_digest_and_the_message_says_how() -> None:
    context = msgspec.structs.replace(stock_context(), profile_sh="true\n", entrypoint_sh="false\n")
    digest = hashlib.sha256(b"true\n").hexdigest()
    first, second = check_template(context, trusted_files=[])
    assert "verify.trusted_files" in first.message
    assert digest in second.message
    (left,) = check_template(context, trusted_files=[f" {digest.upper()} "])
    assert left.message.startswith("entrypoint.sh ")


def test_the_digest_of_another_file_is_no_excuse() -> None:
    context = msgspec.structs.replace(stock_context(), profile_sh="true\n")
    assert check_template(context, trusted_files=[hashlib.sha256(b"other\n").hexdigest()]) != []
