"""Secrets leave every text; the transcript keeps its cap; lines are cut without growing in memory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.lines import CUT_MARK, LineCutter
from actors.agents.redact import MASK, MIN_SECRET_CHARS, Redactor, secrets_of
from actors.agents.transcript import Transcript

SECRET = 's3cr/et+"value"'  # noqa: S105


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps({"text": SECRET}),
        json.dumps(json.dumps({"text": SECRET})),
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_known_secret_is_found_in_the_forms_that_it_takes(form: str) -> None:
    clean = Redactor([SECRET]).text(f"before {form} after")
    assert MASK in clean
    assert SECRET[:6] not in clean
    assert clean.startswith("before ")
    assert clean.endswith(" after")


@pytest.mark.parametrize(
    "key",
    [
        "sk-ant-api03-" + "a1B2" * 10,
        "sk-proj-" + "a1B2" * 10,
        "AIza" + "a1B2" * 9,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 12,
        "glpat-" + "a1B2" * 5,
        "AKIA" + "A1B2" * 4,
        "xoxb-" + "a1B2" * 5,
        "hf_" + "a1B2" * 9,
        "npm_" + "a1B2" * 9,
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_the_shapes_of_well_known_keys_are_masked(key: str) -> None:
    assert Redactor().text(f"x={key} y") == f"x={MASK} y"


def test_passwords_in_urls_and_bearer_tokens_are_masked() -> None:
    assert Redactor().text("https://user:pass@host/x") == f"https://{MASK}@host/x"
    assert Redactor().text("Authorization: Bearer abcdefgh1234") == f"Authorization: Bearer {MASK}"


@pytest.mark.parametrize(
    "text", ["task-force of a disk-shaped kind", "user@example.org", "https://example.org/a@b", "sk-1"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert Redactor(["short"]).text(text) == text


@given(
    secrets=st.lists(st.text(min_size=MIN_SECRET_CHARS, max_size=30), min_size=1, max_size=4), parts=st.lists(st.text())
)
def test_no_known_secret_survives(secrets: list[str], parts: list[str]) -> None:
    text = "".join(part + secret for part, secret in zip(parts, secrets, strict=False)) + secrets[0]
    clean = Redactor(secrets).text(text)
    assert not any(secret in clean for secret in secrets if secret not in MASK)


def test_the_secrets_of_an_environment_are_its_keys_and_the_passwords_of_its_proxies() -> None:
    environment = {
        "ANTHROPIC_API_KEY": "key-of-some-length",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://user:long-password@proxy:3128",
        "SHORT_KEY": "abc",
        "HTTP_PROXY": "http://[broken",
    }
    assert secrets_of(environment) == ("key-of-some-length", "long-password")


@given(data=st.binary(max_size=300), sizes=st.lists(st.integers(1, 20)))
def test_lines_do_not_depend_on_how_the_stream_is_cut(data: bytes, sizes: list[int]) -> None:
    cutter, whole = LineCutter(), LineCutter()
    lines: list[str] = []
    position = 0
    for size in sizes:
        lines += cutter.feed(data[position : position + size])
        position += size
    lines += [*cutter.feed(data[position:]), *cutter.close()]
    assert lines == [*whole.feed(data), *whole.close()]
    expected = data.decode("utf-8", "replace").split("\n")
    if "\r" not in data.decode("latin-1"):
        assert "\n".join(lines) == "\n".join(expected[:-1] if expected[-1] == "" else expected)


def test_a_line_beyond_the_limit_is_cut_short_of_its_margin() -> None:
    cutter = LineCutter(max_line_bytes=100, margin_bytes=10)
    lines = [line for _ in range(50) for line in cutter.feed(b"x" * 50)]
    lines += [*cutter.feed(b"\nnext\n"), *cutter.close()]
    assert lines == ["x" * 90 + CUT_MARK, "next"]
    assert cutter.dropped_bytes == 2500 - 90


def test_a_full_transcript_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t", max_bytes=4000, redactor=Redactor([SECRET]))
    for number in range(1000):
        transcript.add(f"line {number} {SECRET}", stream="out", at_s=1.5)
    size = transcript.close()
    text = (tmp_path / "t").read_text(encoding="utf-8")
    assert len(text) == size.stored_bytes <= 4000
    assert size.left_out_bytes > 0
    assert text.startswith(f"   1.500 out line 0 {MASK}\n")
    assert text.endswith(f"line 999 {MASK}\n")
    assert "left out" in text
    assert SECRET not in text


def test_one_long_line_does_not_fill_a_transcript(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t", max_bytes=8000, redactor=Redactor())
    transcript.add("x" * 100_000, stream="out", at_s=0)
    transcript.add("the end", stream="err", at_s=0)
    size = transcript.close()
    assert size.left_out_bytes == 99_000
    assert (tmp_path / "t").read_text(encoding="utf-8").endswith("err the end\n")
