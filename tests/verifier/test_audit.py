"""The audit of scripts: the snippets of two tables, honest and forged, in the place of one of the stock scripts."""

from __future__ import annotations

import msgspec
import pytest

from actors.templates import stock_context
from actors.verifier.checks.audit import MAX_QUOTED, audit
from actors.verifier.defences import Defence
from events.work import FailureClass
from tests.verifier.snippets import FORGED, HONEST


def findings_of(script: str, *, file: str = "build_run_sh") -> list[str]:
    context = msgspec.structs.replace(stock_context(), **{file: script})
    return [finding.message for finding in audit(context)]


def test_the_stock_template_is_honest() -> None:
    assert audit(stock_context()) == []


@pytest.mark.parametrize("script", HONEST)
def test_an_honest_script_is_passed(script: str) -> None:
    assert findings_of(f"#!/bin/bash\nset -euo pipefail\n{script}\n") == []


@pytest.mark.parametrize("script", HONEST)
def test_an_honest_script_is_passed_as_a_step_of_a_dockerfile(script: str) -> None:
    if "\n" not in script:
        assert findings_of(f"FROM headrace-source\nRUN {script}\n", file="dockerfile") == []


@pytest.mark.parametrize(("rule", "script"), [(rule, text) for rule, texts in FORGED.items() for text in texts])
def test_a_forged_script_is_reported_by_its_rule(rule: str, script: str) -> None:
    messages = findings_of(f"#!/bin/bash\n# comment\n{script}\n")
    assert any(message.startswith("docker_build_run.sh, line ") and f": {rule}: " in message for message in messages)


def test_the_tables_are_as_large_as_they_claim() -> None:
    assert len(HONEST) >= 60
    assert sum(map(len, FORGED.values())) >= 60


def test_a_finding_names_file_line_rule_and_text() -> None:
    script = "#!/bin/bash\n\n# no\nmake\ncat > conftest.py <<'EOF'\nx = 1\nEOF\ntrue\n"
    context = msgspec.structs.replace(stock_context(), build_pkg_sh=script)
    (finding,) = audit(context)
    assert (finding.defence, finding.failure_class) == (Defence.AUDIT, FailureClass.TAMPER)
    assert finding.message == (
        "docker_build_pkg.sh, line 5: tests: /workspace/repo/conftest.py of the tests or their configuration is "
        "written: cat > conftest.py <<'EOF'"
    )


def test_lines_are_counted_across_continuations_quotes_and_documents() -> None:
    script = "true \\\n  a\necho 'x\ny'\ncat <<A\none\ntwo\nA\nx=$(echo \\\n 1)\necho > conftest.py\n"
    assert ["line 11:" in message for message in findings_of(script)] == [True]


def test_long_text_is_shortened() -> None:
    (message,) = findings_of(f"echo {'x' * 500} > conftest.py\n")
    assert len(message) < 3 * MAX_QUOTED
    assert message.endswith("…")


def test_variables_of_a_dockerfile_and_of_the_profile_last() -> None:
    assert ": environment: " in findings_of("FROM headrace-source\nENV PYTEST_ADDOPTS=-k1\n", file="dockerfile")[0]
    assert ": environment: " in findings_of("export PYTHONPATH=/opt/evil\n", file="profile_sh")[0]
    assert findings_of("export PYTHONPATH=/opt/build\nmake\n") == []


def test_steps_of_a_dockerfile_are_read_with_their_own_line_numbers() -> None:
    text = 'FROM headrace-source\n# note\nRUN true && \\\n    echo x > conftest.py\nENTRYPOINT ["nohup"]\n'
    (message,) = findings_of(text, file="dockerfile")
    assert message.startswith("Dockerfile, line 4: tests:")


@pytest.mark.parametrize(
    "script", ["'", '"', "$(", "`", "<<", "cat <<", "${", "((", ")))", "\\", "a <<E\n", "&", "<(", "f() {"]
)
def test_broken_scripts_are_read_to_their_end(script: str) -> None:
    findings_of(script)
    assert any(": tests: " in message for message in findings_of(f"echo > conftest.py\n{script}"))
