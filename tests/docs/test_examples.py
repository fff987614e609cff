"""The documentation says what is true: its example runs, its commands and files exist."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tvm_qnn.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_of_the_methods_answers_a_question(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/methods.md").read_text(), re.S)
    exec(compile(code, "docs/methods.md", "exec"), {})
    assert capsys.readouterr().out == f"{code.rpartition('# ')[2]}"


def commands(page):
    """Return the command lines of a page: words of the command, and its long options."""
    for line in re.findall(r"^tvm-qnn ([a-z][^#\n]*)", page.read_text(), re.M):
        words = line.split("  ")[0].split()
        if words[:2] != ["train", "METHOD"]:
            kept = words[: 2 if words[0] in ("train", "device", "database") else 1]
            yield kept, re.findall(r"--[a-z-]+", line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_their_options(page):
    for words, options in commands(page):
        done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300"})
        assert done.exit_code == 0, (words, done.output)
        assert [o for o in options if o not in done.output] == [], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link
