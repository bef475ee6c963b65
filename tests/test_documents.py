"""The pages: Python blocks print what they show, links work, names and tables are up to date."""

from __future__ import annotations

import re
from configparser import ConfigParser
from dataclasses import fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.backends.base import Capabilities
from parallel_requests.backends.registry import BACKEND_NAMES, backend_class, is_installed
from parallel_requests.options import Settings
from tests.documents import played_hosts, python_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.control import Server

ROOT = Path(__file__).resolve().parents[1]
FOR_USERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOR_CONTRIBUTORS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
_SOURCE_FILE = re.compile(r"`((?:[\w.-]+/)*\w+\.(?:py|cfg|toml|md))`")


def for_each(pages: list[Path]) -> pytest.MarkDecorator:
    """Run a test for each of these pages."""
    return pytest.mark.parametrize(
        "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]
    )


@pytest.fixture
def played(tls_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hosts of the pages, played on loopback; files land in a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    with played_hosts(tls_server):
        yield


@for_each(FOR_USERS)
@pytest.mark.usefixtures("played")
def test_blocks_of_a_page_run_one_after_another(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page):
        printed = block.run(names)
        if block.output is not None:
            assert printed == block.output, block.id


@pytest.mark.usefixtures("played")
def test_each_block_of_the_readme_runs_without_the_others() -> None:
    for block in python_blocks(ROOT / "README.md"):
        block.run({"__name__": "__main__"})


@pytest.mark.usefixtures("played")
def test_each_recipe_runs_without_the_others() -> None:
    for _, blocks in groupby(python_blocks(ROOT / "docs/recipes.md"), key=attrgetter("heading")):
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks:
            block.run(names)


@for_each([*FOR_USERS, *FOR_CONTRIBUTORS])
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        leads_to = page.parent / target if target else page
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors(leads_to), anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@for_each(FOR_CONTRIBUTORS)
def test_make_targets_and_files_that_pages_name_exist(page: Path) -> None:
    text, makefile = page.read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in _MAKE.findall(text):
        assert f".PHONY: {target}\n" in makefile, target
    for name in _SOURCE_FILE.findall(text):
        folder, _, file = name.rpartition("/")
        found = [path.parent for path in ROOT.glob(f"[!.]*/**/{file}")] + [ROOT] * (ROOT / file).is_file()
        assert any(str(parent).endswith(folder) for parent in found), name


def test_every_folder_of_tests_is_described() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent for path in (ROOT / "tests").glob("*/__init__.py")}
    for folder in folders:
        assert f"| `{folder.name}/` |" in page, folder.name


def test_every_module_has_its_place_in_the_table_of_layers() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = page.partition("| layer |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = [module for row in rows for module in re.findall(r"`(\w+)/?`", row.split("|")[1])]
    contract = ConfigParser()
    contract.read(ROOT / "setup.cfg", encoding="utf-8")
    layers = contract["importlinter:contract:house"]["layers"].split("\n")
    depths = {module: depth for depth, layer in enumerate(layers) for module in layer.split(" | ")}
    del depths[""], depths["_version"]
    assert set(listed) == set(depths)
    assert listed == sorted(listed, key=depths.__getitem__)


def test_every_module_of_the_backends_is_on_the_map() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(\w+)`", page.partition("| in `backends/` |")[2].partition("\n\n")[0])
    modules = [path.stem for path in (ROOT / "parallel_requests/backends").glob("[!_]*.py")]
    assert sorted(listed) == sorted(modules)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in FOR_USERS[1:]:
        assert page.name == "README.md" or f"({page.name})" in index


def test_the_table_of_options_is_current() -> None:
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{field.name}` | `{field.default!r}` | {field.metadata['doc']} |" for field in fields(Settings)
    ]
    assert "\n".join(rows) in (ROOT / "docs/options.md").read_text(encoding="utf-8")


@pytest.mark.contract  # so that it also runs where all backends are installed
def test_the_comparison_of_backends_is_current() -> None:
    abilities = [field.name for field in fields(Capabilities)]
    titles = [name.replace("_", " ").replace("http", "HTTP/") for name in abilities]
    rows = [f"| backend | engine | {' | '.join(titles)} |", "| --- " * (len(abilities) + 2) + "|"]
    for backend in map(backend_class, filter(is_installed, BACKEND_NAMES)):
        marks = ["yes" if getattr(backend.capabilities, ability) else "no" for ability in abilities]
        rows.append(f"| {backend.name} | {backend.engine} | {' | '.join(marks)} |")
    page = (ROOT / "docs/backends.md").read_text(encoding="utf-8")
    for row in rows:
        assert f"{row}\n" in page
    if all(map(is_installed, BACKEND_NAMES)):
        assert "\n".join(rows) in page
