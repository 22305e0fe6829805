"""The contract of every source, tested on each one in SOURCES."""

import argparse
from pathlib import Path

import pytest

from data_tools.__main__ import main
from data_tools.sources import SOURCES

EVERY_SOURCE = pytest.mark.parametrize("name", list(SOURCES))


@EVERY_SOURCE
def test_help_shows_the_source_s_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    SOURCES[name].add_arguments(parser)
    with pytest.raises(SystemExit) as raised:
        main(["build", "--source", name, "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for action in parser._actions:
        assert action.option_strings[0] in text


@EVERY_SOURCE
def test_input_that_is_not_there_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    SOURCES[name].add_arguments(parser)
    files = [action for action in parser._actions if action.required or action.metavar == "FILE"]
    required = [action.option_strings[0] for action in files]
    if not required:
        pytest.skip("needs no input")
    options = [text for option in required for text in (option, str(tmp_path / "nowhere"))]
    assert main(["build", "--source", name, *options, "--output", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "nowhere" in message
