"""Results in files: whole or not there, and a gather that is finished once wherever it was interrupted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.gather import (
    ResultSynthesizer,
    Sheet,
    SynthesisConfig,
    SynthesisResult,
    SynthesisStrategy,
    load_result,
    result_from_bytes,
    save_result,
    synthesize_checkpointed,
)
from events.errors import InputError


class Killed(BaseException):
    """Stands for the end of the process."""


class Counted:
    """A synthesizer that notes each preparation and each summary."""

    def __init__(self, *, die_at_summary: bool = False) -> None:
        self.prepared = self.summarized = 0
        self._die = die_at_summary
        config = SynthesisConfig(strategy=SynthesisStrategy.SUMMARIZE)
        self.synthesizer = ResultSynthesizer(config, summarizer=self._summary)

    def _summary(self, sheet: Sheet, text: str) -> str:
        if self._die:
            raise Killed
        self.summarized += 1
        return text

    def prepare(self, synthesizer: ResultSynthesizer) -> SynthesisResult:
        self.prepared += 1
        return synthesizer.prepare_synthesis([1, 2], [1, 2], [], {1: "a", 2: "b"})

    def run(self, path: Path) -> SynthesisResult:
        return synthesize_checkpointed(path, self.prepare, self.synthesizer)


def test_a_saved_result_loads_equal(tmp_path: Path) -> None:
    result = SynthesisResult("b", [1, "x"], sheet_outputs={1: "ü", "x": "y"}, status="ready")
    save_result(tmp_path / "deep" / "er" / "result.json", result)
    assert load_result(tmp_path / "deep" / "er" / "result.json") == result
    assert [one.name for one in (tmp_path / "deep" / "er").iterdir()] == ["result.json"]


def test_a_gather_interrupted_between_its_steps_is_finished_once(tmp_path: Path) -> None:
    path = tmp_path / "gather.json"
    first = Counted(die_at_summary=True)
    with pytest.raises(Killed):
        first.run(path)
    ready = load_result(path)
    assert ready.status == "ready"
    second = Counted()
    done = second.run(path)
    assert (done.batch_id, done.status) == (ready.batch_id, "done")
    assert (second.prepared, second.summarized) == (0, 2)
    third = Counted()
    assert third.run(path) == done
    assert (third.prepared, third.summarized) == (0, 0)


def test_a_gather_that_is_not_interrupted_is_prepared_and_executed_once(tmp_path: Path) -> None:
    counted = Counted()
    done = counted.run(tmp_path / "gather.json")
    assert done.is_success
    assert (counted.prepared, counted.summarized) == (1, 2)
    assert load_result(tmp_path / "gather.json") == done


def test_what_failed_when_it_was_prepared_is_kept_as_failed(tmp_path: Path) -> None:
    def empty(synthesizer: ResultSynthesizer) -> SynthesisResult:
        return synthesizer.prepare_synthesis([1], [], [1], {})

    path = tmp_path / "gather.json"
    assert synthesize_checkpointed(path, empty, ResultSynthesizer()).status == "failed"
    assert load_result(path).error_message == "No sheet outputs to synthesize"


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    save_result(path, SynthesisResult("old"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"r\.json: cannot be written \(No space left"):
            save_result(path, SynthesisResult("new"))
    assert load_result(path).batch_id == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    save_result(path, SynthesisResult("old"))

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            save_result(path, SynthesisResult("new"))
    assert load_result(path).batch_id == "old"


def test_what_was_saved_is_executed_in_the_order_of_the_sheets_numbers(tmp_path: Path) -> None:
    outputs = {2: "two", 10: "ten"}
    synthesizer = ResultSynthesizer(SynthesisConfig(include_metadata=False))
    ready = synthesizer.prepare_synthesis([2, 10], [2, 10], [], outputs)
    save_result(tmp_path / "r.json", ready)
    loaded = synthesizer.execute_synthesis(load_result(tmp_path / "r.json"))
    assert loaded.synthesized_content == synthesizer.execute_synthesis(ready).synthesized_content


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff", b'{"batch_id": "b", "status": "odd"}'])
def test_what_is_no_result_is_refused_with_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"odd\.json"):
        load_result(path)
    with pytest.raises(InputError, match="blob 12"):
        result_from_bytes(data, source="blob 12")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        load_result(tmp_path / "none.json")
