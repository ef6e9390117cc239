"""The pytest plugin in a user's project, with labs that are only pretended."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Pytester forgets the modules that a run inside this process has loaded; extensions such as
# PyYAML's do not bear to be loaded twice.
import labctl.lab.lab
import labctl.topology.loader  # noqa: F401

pytest_plugins = ["pytester"]

PRETENCE = """
import contextlib, types
from pathlib import Path

import pytest

from labctl.errors import GuestError, HostError
from labctl.lab.lab import Lab

STORY = Path(__file__).with_name("story")


class Pretended:
    def __init__(self, model, name, policy):
        self.topology, self.name, self.policy = model, name, policy
        self.directory = Path(__file__).parent / name
        (self.directory / "console").mkdir(parents=True)
        for node in model.nodes:
            text = "".join(f"line {n} of {node}\\r\\n" for n in range(1000))
            (self.directory / "console" / f"{node}.log").write_text(text)

        self.sandbox = self

    def check_programs(self):
        if (self.directory / "dead").exists():
            raise HostError("the program lan-w-sw of the network lan has ended")

    def down(self):
        tell(f"down {self.name}")

    def keep(self):
        if self.name == "gone":
            raise GuestError("the lab went down meanwhile")
        tell(f"keep {self.name}")

    def close(self):
        tell(f"close {self.name}")


def tell(words):
    with STORY.open("a") as story:
        print(words, file=story)


@pytest.fixture(autouse=True, scope="session")
def pretend():
    def up(model, *, name=None, policy="auto", **_):
        if "sick" in model.nodes:
            raise GuestError("sick died while booting", "try another kernel", "    its last words")
        tell(f"up {name} {policy}")
        return Pretended(model, name, policy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "up", staticmethod(up))
        yield
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project whose labs are pretended."""
    monkeypatch.delenv("LABCTL_ACCEL", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(PRETENCE)
    return pytester


def _story(project: pytest.Pytester) -> list[str]:
    story = project.path / "story"
    return story.read_text().splitlines() if story.exists() else []


def test_the_lab_comes_up_for_a_test_and_goes_down_after_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_one(lab):
            assert list(lab.topology.nodes) == ["vm1", "vm2"]

        @pytest.mark.topology("router-hop")
        def test_two(lab):
            assert list(lab.topology.routers) == ["r1"]
        """
    )
    project.runpytest("--strict-markers").assert_outcomes(passed=2)
    up, down, up2, down2 = _story(project)
    name = up.split()[1]
    assert (up, down) == (f"up {name} auto", f"down {name}")
    assert name.startswith("bridged-")
    assert up2.startswith("up router-hop-")
    assert down2 == f"down {up2.split()[1]}"


def test_a_lab_gets_a_name_whatever_its_file_is_called(project: pytest.Pytester) -> None:
    (project.path / "Two_hosts.v2.yaml").write_text(TOPOLOGY % "vm1")
    project.makepyfile(
        """
        import pytest
        from labctl.lab import naming

        @pytest.mark.topology("Two_hosts.v2.yaml")
        def test_one(lab):
            assert lab.name.startswith("two-hosts-v2-")
            naming.check(lab.name)
        """
    )
    project.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("end", ["assert False", "raise KeyboardInterrupt", "pytest.skip('no')"])
def test_the_lab_goes_down_however_the_test_ends(end: str, project: pytest.Pytester) -> None:
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_one(lab):
            {end}
        """
    )
    project.inline_run(no_reraise_ctrlc=True)
    up, down = _story(project)
    assert down == f"down {up.split()[1]}"


def test_a_lab_that_does_not_come_up_is_an_error_with_labctls_own_words(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.topology({"networks": {"lan": {}}, "nodes": {"sick": {}}})
        def test_one(lab):
            pass
        """
    )
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["sick died while booting", "try another kernel", "    its last words"]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("", "*needs a topology*"),
        ("@pytest.mark.topology()", "*needs a topology*"),
        ("@pytest.mark.topology('no-such.yaml')", "*there is no topology*no-such.yaml*"),
        ("@pytest.mark.topology({'nodes': {'vm1': {'colour': 'red'}}})", "*colour*"),
    ],
)
def test_a_missing_or_wrong_topology_is_an_error(
    marker: str, words: str, project: pytest.Pytester
) -> None:
    project.makepyfile(f"import pytest\n\n{marker}\ndef test_one(lab):\n    pass\n")
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([words])
    assert _story(project) == []


TOPOLOGY = "networks: {lan: {}}\nnodes: {%s: {interfaces: [{network: lan}]}}\n"


def test_a_file_is_found_beside_the_test_then_below_the_project(project: pytest.Pytester) -> None:
    for folder, node in (("tests", "near"), (".", "far")):
        (project.path / folder).mkdir(exist_ok=True)
        (project.path / folder / "both.yaml").write_text(TOPOLOGY % node)
    (project.path / "only.yaml").write_text(TOPOLOGY % "root")
    (project.path / "tests" / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.topology('both.yaml')\n"
        "def test_near(lab): assert list(lab.topology.nodes) == ['near']\n"
        "@pytest.mark.topology('only.yaml')\n"
        "def test_root(lab): assert list(lab.topology.nodes) == ['root']\n"
    )
    (project.path / "elsewhere").mkdir()
    project.chdir()
    project.runpytest(str(project.path / "tests")).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("words", "variable", "policy"),
    [
        ((), "", "auto"),
        (("--accel", "off"), "", "off"),
        ((), "require", "require"),
        (("--accel=auto",), "off", "auto"),
    ],
)
def test_the_accelerator_is_chosen_by_option_or_variable(
    words: tuple[str, ...],
    variable: str,
    policy: str,
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable:
        monkeypatch.setenv("LABCTL_ACCEL", variable)
    project.makepyfile(
        """
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_one(lab):
            pass
        """
    )
    project.runpytest(*words).assert_outcomes(passed=1)
    assert _story(project)[0].endswith(f" {policy}")


def test_a_wrong_accelerator_is_refused(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile("def test_one(): pass")
    assert project.runpytest("--accel", "warp").ret == pytest.ExitCode.USAGE_ERROR
    monkeypatch.setenv("LABCTL_ACCEL", "warp")
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*LABCTL_ACCEL must be one of: auto, require, off*"])


def test_what_a_test_requires_and_lacks_skips_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from labctl import Skip, require

        def test_in_the_test():
            require(tools="no-such-tool")

        @pytest.fixture
        def needed():
            raise Skip("not on this day")

        def test_in_a_fixture(needed):
            pass
        """
    )
    result = project.runpytest("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*test_*.py:*this host has no program no-such-tool"])
    result.stdout.fnmatch_lines(["SKIPPED*test_*.py:*not on this day"])


def test_a_factory_gives_several_labs_and_one_for_a_module(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(lab_factory):
            with lab_factory("bridged.yaml", name="shared") as lab:
                yield lab

        def test_one(shared, lab_factory):
            with lab_factory("bridged.yaml") as a, lab_factory("bridged.yaml") as b:
                assert len({shared.name, a.name, b.name}) == 3

        def test_two(shared):
            assert shared.name == "shared"
        """
    )
    project.runpytest().assert_outcomes(passed=2)
    story = _story(project)
    assert story[0] == "up shared auto"
    assert story[-1] == "down shared"
    assert [line.split()[0] for line in story] == ["up", "up", "up", "down", "down", "down"]


def test_a_failure_shows_the_consoles_end_and_hints(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from labctl.errors import GuestError

        @pytest.mark.topology("bridged.yaml")
        def test_fails(lab):
            raise GuestError("vm1 cannot be reached", "read its console", "more of it")

        def test_fails_in_a_with_block(lab_factory):
            with lab_factory("bridged.yaml", name="inner"):
                assert False
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*GuestError: vm1 cannot be reached*",
            "*- labctl -*",
            "read its console",
            "more of it",
            "*console of bridged-*: vm1*",
            "line 999 of vm1",
            "*console of bridged-*: vm2*",
            "*test_fails_in_a_with_block*",
            "*console of inner: vm1*",
            "line 999 of vm1",
        ]
    )
    result.stdout.no_fnmatch_line("line 1 of vm1")


def test_a_dead_program_of_a_link_is_told_whether_the_test_passes_or_fails(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_passes(lab):
            (lab.directory / "dead").touch()

        def test_passes_in_a_block(lab_factory):
            with lab_factory("bridged.yaml") as lab:
                (lab.directory / "dead").touch()

        def test_fails_in_a_block(lab_factory):
            with lab_factory("bridged.yaml") as lab:
                (lab.directory / "dead").touch()
                raise ValueError("no answer")
        """
    )
    result = project.runpytest()
    result.assert_outcomes(passed=1, errors=1, failed=2)
    words = "the program lan-w-sw of the network lan has ended"
    result.stdout.fnmatch_lines(
        [*[f"*HostError: {words}"] * 2, "*ValueError: no answer", f"*lab *: {words}"]
    )


def test_a_report_holds_only_its_own_tests_labs(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_passes(lab_factory):
            with lab_factory("bridged.yaml", name="earlier"):
                pass

        def test_fails():
            assert False
        """
    )
    result = project.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*console of*")


def test_the_plugin_costs_those_who_use_no_lab_next_to_nothing() -> None:
    """What is slow to import is imported only when a lab is wanted."""
    heavy = ("pydantic", "pyroute2", "libvirt", "yaml", "cryptography", "labctl.lab", "rich")
    code = (
        "import sys, pytest; before = set(sys.modules); import labctl.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = told.stdout.split()
    assert "labctl.pytest_plugin" in loaded
    assert not [name for name in loaded if name.startswith(heavy)]


def test_the_plugin_is_found_without_being_named(project: pytest.Pytester) -> None:
    project.makepyfile("def test_one(): pass")
    result = project.runpytest("--fixtures")
    result.stdout.fnmatch_lines(["*lab_factory*", "*observe*"])
    project.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.topology(source)*"])


FAILING = """
    import pytest
    from labctl import Skip

    @pytest.fixture(scope="module")
    def shared(lab_factory):
        with lab_factory("bridged.yaml", name="shared") as lab:
            yield lab

    def test_passes(lab_factory):
        with lab_factory("bridged.yaml", name="passes"):
            pass

    def test_skips(lab_factory):
        with lab_factory("bridged.yaml", name="skips"):
            raise Skip("not here")

    def test_fails(lab_factory, shared):
        with lab_factory("bridged.yaml", name="fails"):
            assert False

    def test_fails_too(shared):
        assert False
"""


def test_a_lab_in_which_a_test_fails_stays_up_where_that_is_wanted(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(FAILING)
    result = project.runpytest("--labctl-keep-on-failure")
    result.assert_outcomes(passed=1, skipped=1, failed=2)
    ends = [line for line in _story(project) if not line.startswith("up")]
    assert ends == [
        "down passes",
        "down skips",
        *("keep fails", "close fails"),
        *("keep shared", "close shared"),
    ]
    result.stdout.fnmatch_lines(
        [
            "*labs that stay up*",
            "labctl ssh --lab fails vm1",
            "labctl trace --lab fails vm1 vm2",
            "labctl down fails",
            "labctl ssh --lab shared vm1",
        ]
    )


def test_no_lab_stays_up_unasked(project: pytest.Pytester) -> None:
    project.makepyfile(FAILING)
    result = project.runpytest()
    assert not [line for line in _story(project) if line.startswith("keep")]
    result.stdout.no_fnmatch_line("*stay up*")


def test_the_lab_of_a_failing_test_stays_up_with_its_fixture(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_fails(lab):
            assert False

        @pytest.mark.topology("bridged.yaml")
        def test_passes(lab):
            pass
        """
    )
    project.runpytest("--labctl-keep-on-failure").assert_outcomes(failed=1, passed=1)
    assert [line.split()[0] for line in _story(project)] == ["up", "keep", "close", "up", "down"]


def test_a_lab_that_has_ended_cannot_stay_and_is_told(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def gone(lab_factory):
            with lab_factory("bridged.yaml", name="gone") as lab:
                yield lab

        def test_fails(gone):
            assert False
        """
    )
    result = project.runpytest("--labctl-keep-on-failure")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*the lab went down meanwhile*"])
    assert _story(project)[-1] == "down gone"
