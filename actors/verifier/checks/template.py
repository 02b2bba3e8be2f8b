"""Of a context's nine files an agent may edit three; the other six are ones that this installation trusts.

They run before, between and after the agent's scripts and say what is run at all. A context that brings its own ones
is honest as often as not (a hand-made base, a project with another entry point), so it is refused as a recipe, with the
digest that an operator has to put on the list of trusted files once the file was read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from actors.templates import stock_context
from actors.verifier.defences import Defence, Finding
from events.work import FailureClass
from store.docker_context import DockerContext

__all__ = ["EDITABLE", "check_template"]

EDITABLE = frozenset({"docker_build_env.sh", "docker_build_pkg.sh", "docker_build_run.sh"})
"""What an agent may edit; AUDIT and all that looks at the image judge these."""

RELEASED: frozenset[str] = frozenset()
"""SHA-256 of the six files as earlier releases of Headrace had them; none was released before this one."""


def check_template(context: DockerContext, *, trusted_files: Collection[str]) -> list[Finding]:
    """What is wrong with the files that no agent may edit.

    Args:
        context: the nine files.
        trusted_files: SHA-256 in hexadecimal of further files that this installation trusts
            (the setting ``verify.trusted_files``).

    Returns:
        One finding, of class ``recipe``, for each file that is neither the stock template's nor trusted.
    """
    trusted = RELEASED | {digest.strip().lower() for digest in trusted_files}
    stock = stock_context().files
    findings = []
    for name, text in context.files.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name in EDITABLE or text == stock[name] or digest in trusted:
            continue
        message = (
            f"{name} is not the stock template's; take that one, or read the file and, if you trust it, "
            f"add its SHA-256 {digest} to verify.trusted_files"
        )
        findings.append(Finding(defence=Defence.TEMPLATE, message=message, failure_class=FailureClass.RECIPE))
    return findings
