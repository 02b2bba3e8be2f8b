"""Generated Dockerfiles, keys, tags and tars, without an engine."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from actors.images.outcomes import BuildFailed
from actors.images.recipes import add_tree, build_arguments, key_of, pr_dockerfile, tag_of
from actors.settings import BuildSettings
from events.work import PullRequest, Stage, VerificationRules, WorkOrder
from store.docker_context import FILE_NAMES, DockerContext

ORDER = WorkOrder(
    attempt_id="attempt-1",
    log_id="log-1",
    sweep="s",
    stage=Stage.TRY_DEFAULT,
    pull_request=PullRequest(owner="o", repo="r", issue_number=1, sha="a" * 40, created_at="2023-01-01T00:00:00Z"),
    rules=VerificationRules(),
    anchor="a" * 40,
)


def dockerfile(text: str, *, settings: BuildSettings | None = None, labels: dict[str, str] | None = None) -> str:
    context = DockerContext(**dict.fromkeys(FILE_NAMES, "") | {"dockerfile": text})
    return pr_dockerfile(
        repository="sha256:1",
        order=ORDER,
        context=context,
        settings=settings or BuildSettings(),
        replace_history=False,
        labels=labels or {},
    )


def test_arguments_are_declared_after_every_from() -> None:
    settings = BuildSettings(build_args={"A": "1"}, index_url="http://i")
    text = dockerfile("FROM headrace-source AS one\nRUN true\nFROM one\nRUN true\n", settings=settings)
    after = re.findall(r"^FROM (?:headrace-source|one)\b.*\n((?:ARG .*\n)*)", text, re.MULTILINE)
    declared = "ARG A\nARG PIP_INDEX_URL\nARG UV_DEFAULT_INDEX\nARG UV_INDEX_URL\n"
    assert after == [declared, declared]


def test_proxies_are_no_declared_arguments_and_go_by_both_spellings() -> None:
    declared, proxies = build_arguments(BuildSettings(http_proxy="http://p", no_proxy="localhost"))
    assert declared == {}
    assert proxies == {
        "http_proxy": "http://p",
        "HTTP_PROXY": "http://p",
        "no_proxy": "localhost",
        "NO_PROXY": "localhost",
    }


def test_what_changes_with_the_attempt_comes_last() -> None:
    text = dockerfile("FROM headrace-source\nRUN true\n", labels={"headrace.attempt": "attempt-1"})
    *before, last = text.splitlines()
    assert last == 'LABEL headrace.attempt="attempt-1"'
    assert "attempt-1" not in "\n".join(before)


def test_a_label_cannot_break_out_of_its_quotes() -> None:
    text = dockerfile("FROM headrace-source\n", labels={"sweep": 'a"b\\c$d\nRUN evil'})
    assert text.splitlines()[-1] == 'LABEL sweep="a\\"b\\\\c\\$d RUN evil"'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM debian\n", "it starts FROM debian"),
        ("FROM headrace-source\nFROM debian\n", "it starts FROM debian"),
        ("from headrace-source as x\nfrom y\n", "it starts FROM y"),
        ("RUN true\n", "it has no FROM"),
        ("FROM headrace-source $X y\n", "is no FROM that Headrace understands"),
        ("FROM headrace-source\nRUN true \\\n\n", "goes on into nothing"),
    ],
)
def test_a_dockerfile_that_leaves_the_source_stage_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        dockerfile(text)
    assert problem in caught.value.message


@pytest.mark.parametrize("name", ["scikit-learn/scikit_learn-12", "a" * 300, "-odd..name/x-", "ünï/cødé"])
def test_tags_are_ones_that_an_engine_takes(name: str) -> None:
    repository, _, tag = tag_of("pr", name, key="0123456789abcdef").partition(":")
    assert repository == "headrace/pr"
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag)
    assert tag.endswith("0123456789ab")


def test_a_key_depends_on_every_part_and_not_on_their_order() -> None:
    assert key_of(a=1, b="2") == key_of(b="2", a=1)
    assert len({key_of(a=1, b="2"), key_of(a=1, b="3"), key_of(a=1), key_of(a=1, c="2")}) == 4


def test_equal_folders_give_equal_tars(tmp_path: Path) -> None:
    tars = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "file").write_text("x")
        (folder / "a").write_text("y")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            add_tree(tar, "in", folder)
        tars.append(buffer.getvalue())
    assert tars[0] == tars[1]
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as tar:
        assert tar.getnames() == ["in", "in/a", "in/sub", "in/sub/file"]
